"""The source distribution, installed into an environment that has only its declared requirements, as on a
machine without a compiler.
"""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from subprocess import run

import pytest

from testing.service import REPOSITORY, Service, calling, inherited

from .environments import environment, install, missing

RULES = "domain: d\ndescriptors: [{key: team, rate_limit: {unit: day, tokens_per_unit: 10}}]\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("source")
    command = ("sh", "tools/make_sdist.sh", into)
    run(command, cwd=REPOSITORY, env={**inherited(), "PYTHON": sys.executable}, check=True)
    (found,) = into.glob("*.tar.gz")
    return found


def requirements(source: Path) -> list[str]:
    """Return the requirements in the metadata of a source distribution, without those of extras."""
    with tarfile.open(source) as archive:
        member = archive.extractfile(f"{source.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert member is not None
        return list(message_from_bytes(member.read()).get_all("Requires-Dist", ()))


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment.

    setuptools builds the package there. Cython is not there, so nothing is compiled, which would take
    minutes: the wheel of test_wheel.py is compiled from the same source.
    """
    place = tmp_path_factory.mktemp("installed") / "venv"
    python = environment(place, [*requirements(source), "setuptools"])
    install(python, source, "--no-build-isolation")
    return python


@pytest.fixture
def served(installed: Path, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "rules.yaml").write_text(RULES)
    command = (str(installed.parent / "ratelimit-service"), "serve")
    with Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(tmp_path)}, command=command) as service:
        yield service


def test_the_installed_source_serves_with_grpcio(served: Service) -> None:
    """By the command that the package installs. The log says which transport serves."""
    with calling(served.grpc) as caller:
        caller.ask("d", "team", "dba", hits=4)
        assert 6 == caller.ask("d", "team", "dba").statuses[0].limit_remaining
    (serving,) = served.events("serving")
    assert ("grpcio", "interpreted") == (serving["transport"], serving["decisions"])


def test_every_module_needs_only_declared_packages(installed: Path) -> None:
    """But those of tracing, whose packages are an extra, and those over the compiled modules."""
    lacking = missing(installed)
    native = "ratelimit_service.transports.native."
    assert {"opentelemetry", f"{native}_http2"} == set(lacking.values())
    for module, needed in lacking.items():
        area = "ratelimit_service.tracing." if needed == "opentelemetry" else native
        assert module.startswith(area)


def test_an_environment_without_a_requirement_is_noticed(source: Path, tmp_path: Path) -> None:
    """pip refuses to install: without an index, it finds the requirement nowhere."""
    some = [each for each in requirements(source) if not each.startswith("structlog")]
    python = environment(tmp_path / "venv", [*some, "setuptools"])
    with pytest.raises(AssertionError, match="structlog"):
        install(python, source, "--no-build-isolation")
