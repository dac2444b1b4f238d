"""The output of `make wheel`: installed alone, it serves with the native transport, and includes nghttp2."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from email.message import Message
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from testing.service import REPOSITORY, Service, calling, inherited

from .environments import environment, install, missing

MODULE = "ratelimit_service/transports/native/_http2"
RULES = "domain: d\ndescriptors: [{key: team, rate_limit: {unit: day, tokens_per_unit: 10}}]\n"


def variables() -> Mapping[str, str]:
    """Return the environment variables of builds, with those for cargo and for a given source."""
    names = ("CARGO_HOME", "RUSTUP_HOME", "NGHTTP2_SOURCE")
    return {**inherited(), **{name: os.environ[name] for name in names if name in os.environ}}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution of this tree."""
    if sys.platform != "linux":
        pytest.skip("auditwheel is for Linux")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source = subprocess.run(
        ["sh", "tools/nghttp2_source.sh"],
        cwd=REPOSITORY,
        env=variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    if source.returncode:
        pytest.skip(f"nghttp2's source cannot be had: {source.stderr.strip().splitlines()[0]}")
    into = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        ["sh", "tools/make_wheel.sh", str(into)],
        cwd=REPOSITORY,
        env={**variables(), "PYTHON": sys.executable, "CFLAGS": "-O1"},  # half as long as with -O2
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == built.returncode, built.stderr
    return into


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and its declared requirements, and nothing else."""
    requirements = metadata(wheel).get_all("Requires-Dist", ())
    python = environment(tmp_path_factory.mktemp("installed") / "venv", requirements)
    install(python, wheel)
    return python


def metadata(wheel: Path) -> Message:
    """Return the metadata of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def compiled(wheel: Path) -> ELFFile:
    """The compiled module of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.startswith(MODULE) and name.endswith(".so"))
        return ELFFile(BytesIO(archive.read(name)))


def test_the_wheel_runs_on_any_linux_with_glibc_2_17(wheel: Path) -> None:
    """auditwheel finds no symbol that glibc 2.17 lacks, and adds no library."""
    assert "manylinux_2_17_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        assert [] == [name for name in archive.namelist() if ".libs/" in name]


def test_nghttp2_is_in_the_module_and_its_symbols_are_hidden(wheel: Path) -> None:
    """It does not link to libnghttp2, and exports nothing that another library in the process could use by
    mistake.
    """
    module = compiled(wheel)
    dynamic = module.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    needed = {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")}  # type: ignore[attr-defined]  # made as it is read
    assert needed <= {"libc.so.6", "libpthread.so.0", "libdl.so.2", "libm.so.6"}
    symbols = module.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    exported = {symbol.name for symbol in symbols.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}
    assert {"PyInit__http2"} == {name for name in exported if not name.startswith("_")}


def test_the_wheel_has_the_licence_of_nghttp2(wheel: Path) -> None:
    """The metadata names it, too."""
    said = metadata(wheel)
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/licenses/LICENSE"))
        assert ["LICENSE", "LICENSE.nghttp2"] == said.get_all("License-File")
        assert "Apache-2.0 AND MIT" == said["License-Expression"]
        assert (REPOSITORY / "LICENSE").read_bytes() == archive.read(licence)
        assert b"Tatsuhiro Tsujikawa" in archive.read(f"{licence}.nghttp2")


@pytest.fixture
def served(installed: Path, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "rules.yaml").write_text(RULES)
    settings = {"BACKEND_TYPE": "memory", "CONFIG_PATH": str(tmp_path)}
    # -P: the working directory is this tree, and is not searched.
    command = (str(installed), "-P", "-m", "ratelimit_service", "serve")
    with Service(settings, command=command) as service:
        yield service


def test_the_installed_wheel_serves_with_the_native_transport(served: Service, installed: Path) -> None:
    """By default, without a warning, from the environment where it is installed, and without libnghttp2 in
    the process.
    """
    with calling(served.grpc) as caller:
        caller.ask("d", "team", "dba", hits=4)
        assert 6 == caller.ask("d", "team", "dba").statuses[0].limit_remaining
    (serving,) = served.events("serving")
    assert ("native", "compiled") == (serving["transport"], serving["decisions"])
    assert [] == [event for event in served.everything() if "grpcio" in str(event)]
    mapped = set(re.findall(r"/\S+", Path(f"/proc/{served.pid}/maps").read_text()))
    assert [] == [path for path in mapped if "libnghttp2" in path]
    for name in ("_http2", "_wire"):
        (module,) = (path for path in mapped if name in path)
        assert module.startswith(str(installed.parents[1]))


def test_every_module_needs_only_declared_packages(installed: Path) -> None:
    """Tracing needs those of an extra."""
    lacking = missing(installed)
    assert {"opentelemetry"} == set(lacking.values())
    assert {"tracing"} == {module.split(".")[1] for module in lacking}


def test_the_compiled_modules_behave_like_their_sources(installed: Path, tmp_path: Path) -> None:
    """The tests of the core and of the recorded answers run with the wheel's package; in this tree, they run
    the sources.
    """
    for name in ("tests", "testing", "config", "docs", "pyproject.toml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    which = "from ratelimit_service.core import planner; print(planner.__file__)"
    found = subprocess.run(
        [installed, "-P", "-c", which], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert re.search(r"planner\..*\.so$", found.stdout.strip())
    assert found.stdout.startswith(str(installed.parents[1]))
    suites = (
        "core/test_planning.py",
        "core/test_decision.py",
        "core/matching",
        "test_service.py",
        "vectors/test_answers.py",
    )
    ran = subprocess.run(
        [
            installed,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(f"tests/{suite}" for suite in suites),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        # pytest is here. In PYTHONPATH, .pth files are not read, by which this tree would be found.
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")},
    )
    assert 0 == ran.returncode, ran.stdout[-4_000:]


def test_the_wheel_has_the_declared_version_of_nghttp2(installed: Path) -> None:
    """The version in tools/nghttp2/Cargo.toml."""
    if "NGHTTP2_SOURCE" in os.environ:
        pytest.skip("another source is given")
    manifest = (REPOSITORY / "tools" / "nghttp2" / "Cargo.toml").read_text()
    (wanted,) = re.findall(r'^version = "[^"+]*\+([^"]*)"', manifest, re.MULTILINE)
    code = "from ratelimit_service.transports.native import _http2; print(_http2.library_version()[1])"
    done = subprocess.run(
        [installed, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=installed.parent
    )
    assert wanted == done.stdout.strip()


def test_the_page_for_browsers_is_in_the_wheel(wheel: Path) -> None:
    """Every file of it, and the record of third-party files."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    page = REPOSITORY / "ratelimit_service" / "http" / "page"
    assert {str(path.relative_to(REPOSITORY)) for path in page.rglob("*") if path.is_file()} <= names


def test_the_source_distribution_is_complete_and_has_no_binaries(dist: Path) -> None:
    """The wheel is built from it."""
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"{MODULE}.pyx", "setup.py", "LICENSE", "ratelimit_service/stores/redis/hit.lua"} <= names
    assert "ratelimit_service/transports/_wire.pyx" in names
    assert [] == [name for name in names if name.endswith((".so", ".c", ".pyc")) or name.startswith("tests")]
