"""The container image: built by the steps of deploy/Dockerfile, and run as container engines run it.

No engine is needed. The steps run in a Debian that `make test` has put into build/base.tar, and a container
is a process in its own namespaces: the image is its read-only root, and it is process 1 without any
capability. It shares the network with the machine, where Redis is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer, free_port
from testing.service import FREE_PORTS, LOG, PATIENT, REPOSITORY, ConfigMapMount, Service, calling, port_of
from testing.waiting import wait_for

from ..e2e.conftest import Unique
from ..loading.blocking_file import children
from .dockerfile import Context, parse
from .image import Image, build

pytestmark = pytest.mark.container

BASE = REPOSITORY / "build" / "base.tar"
SITE = "opt/ratelimit/lib/python3.11/site-packages"
LARGEST = 220
"""The bound for the root file system in MB; it has 207. More would be an unwanted package."""

OK, OVER = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT


def missing() -> str:
    """The reason why no image can be built here, or None."""
    if os.geteuid() != 0:
        return "chroot needs root"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        return "unshare --mount --pid is not permitted here"
    if not BASE.exists():
        return (
            f"{BASE.relative_to(REPOSITORY)} is not there: `sh tools/need_base.sh build/base.tar` makes it, "
            "or says why not"
        )
    return ""


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image that `docker build -f deploy/Dockerfile .` would build of this checkout."""
    if why := missing():
        pytest.skip(why)
    stages = parse((REPOSITORY / "deploy" / "Dockerfile").read_text())
    context = Context(REPOSITORY, (REPOSITORY / ".dockerignore").read_text().splitlines())
    # Not pytest's tmp_path, because pytest keeps three of them: this is a gigabyte, for a minute. It is in
    # memory if there is enough.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8e9
    with tempfile.TemporaryDirectory(prefix="image-", dir=memory if roomy else None) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield build(stages, context, BASE, directory)


class Container(Service):
    """A running container of an image, with its CMD or another `command`. Its ports are free ones, and
    `environment` corresponds to `docker run --env`.
    """

    def __init__(
        self,
        image: Image,
        environment: Mapping[str, str],
        *,
        command: tuple[str, ...] = (),
        user: str = "",
        mounts: Mapping[str, Path] | None = None,
    ) -> None:
        # HEALTHCHECK reads the port from the environment of the container, so it must not be 0.
        self.environment = {**FREE_PORTS, **PATIENT, **LOG, "PORT": str(free_port()), **environment}
        self.image = image
        super().__init__(
            {},
            command=image.started(command or image.command, self.environment, user=user, mounts=mounts),
        )

    @property
    def inside(self) -> int:
        """The process ID, outside, of process 1 of the container."""
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(child)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, as `docker stop` does."""
        os.kill(self.inside, number)

    def about(self, field: str) -> list[str]:
        """Return a line of /proc/.../status."""
        lines = Path(f"/proc/{self.inside}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"{field}:"))
        return line.split()[1:]

    def check(self) -> tuple[int, str]:
        """Run HEALTHCHECK, and return its exit code and output."""
        done = self.image.run(*self.image.healthcheck, environment=self.environment)
        return done.returncode, done.stdout.strip()


class Start:
    """Starts containers as agentgateway deploys the image: its environment, verbatim, and the mount of its
    ConfigMap.

    The rules are of `domain`, and give every model 100 a year.
    """

    def __init__(self, image: Image, redis: RedisServer, domain: str, directory: Path) -> None:
        self.domain = domain
        self.started: list[Container] = []
        self._image = image
        rules = (
            f"domain: {domain}\ndescriptors: [{{key: model, rate_limit: {{unit: year, "
            "requests_per_unit: 100}}]\n"
        )
        self.mount = ConfigMapMount(directory, {"config.yaml": rules})
        self._mounts = {"/data/ratelimit/config": self.mount.directory}
        self._verbatim = {
            "USE_STATSD": "false",
            "LOG_LEVEL": "debug",
            "RUNTIME_ROOT": "/data",
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "RUNTIME_IGNOREDOTFILES": "true",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": redis.address,
        }

    def __call__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        without: str = "",
        command: tuple[str, ...] = (),
        user: str = "",
    ) -> Container:
        """Start a container with more variables, and without those whose names have these prefixes."""
        variables = {**self._verbatim, **(environment or {})}
        kept = {
            name: value for name, value in variables.items() if not without or not name.startswith(without)
        }
        container = Container(self._image, kept, command=command, user=user, mounts=self._mounts)
        self.started.append(container)
        return container


@pytest.fixture
def start(image: Image, redis_server: RedisServer, unique: Unique, tmp_path: Path) -> Iterator[Start]:
    """A function that starts containers, which end with the test."""
    starting = Start(image, redis_server, unique("llm"), tmp_path / "config")
    yield starting
    for container in starting.started:
        container.kill()


# From the start to the stop


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_the_container_serves_from_a_read_only_root_and_stops_cleanly(
    start: Start, redis_server: RedisServer, transport: str
) -> None:
    """It is process 1, runs as nobody without capabilities, is healthy, decides, counts in Redis, and exits
    with 0 on SIGTERM.
    """
    container = start({"GRPC_TRANSPORT": transport})
    assert transport == container.wait_for_event("serving")["transport"]
    wait_for("HEALTHCHECK", lambda: (0, "OK") == container.check())

    assert "1" == container.about("NSpid")[-1]
    assert (["65532"] * 4, ["65532"] * 4) == (container.about("Uid"), container.about("Gid"))
    assert (["0000000000000000"], ["1"]) == (container.about("CapBnd"), container.about("NoNewPrivs"))

    with calling(container.grpc) as caller:
        assert OK == caller.ask(start.domain, "model", transport).overall_code
        assert OVER == caller.ask(start.domain, "model", transport, hits=101).overall_code
        assert OVER == caller.ask(start.domain, "model", transport).overall_code
    (key,) = redis_server.cli("--scan", "--pattern", f"{{{start.domain}|model={transport}}}:*").split()
    assert "101" == redis_server.cli("GET", key)

    container.signal(signal.Signals[container.image.stop_signal])
    assert 0 == container.ended()
    assert 1 == container.check()[0]


@pytest.mark.parametrize("user", ["", "1000670000:0"])
def test_the_process_that_reads_changed_rules_leaves_nothing_behind(start: Start, user: str) -> None:
    """Process 1 waits for it, because there is no other init.

    It needs no writable directory.
    """
    container = start(user=user)
    changed = (
        f"domain: {start.domain}\ndescriptors: [{{key: model, rate_limit: {{unit: year, "
        "requests_per_unit: 7}}]\n"
    )
    start.mount.update({"config.yaml": changed})
    with calling(container.grpc) as caller:
        wait_for("other rules", lambda: 7 == caller.limit(start.domain, "model", "gpt"))
    wait_for("no process beside it", lambda: set() == children(container.inside))
    assert [] == [
        event for event in container.everything() if "no process can read the rules" in event["@message"]
    ]


def test_the_native_transport_is_linked_to_debians_nghttp2(start: Start) -> None:
    """So fixes of libnghttp2 come with the distribution, without a release of ours."""
    container = start({"GRPC_TRANSPORT": "native"})
    maps = Path(f"/proc/{container.inside}/maps").read_text()
    assert re.search(r" \S*/usr/lib/\S+/libnghttp2\.so\.14\S*$", maps, re.MULTILINE)


# The last is the user of Envoy Gateway's container, whose root is as read-only as here.
@pytest.mark.parametrize("user", ["1000670000:0", "12345:12345", "65534:65534"])
def test_any_user_id_works(start: Start, user: str) -> None:
    """OpenShift chooses a user of the group 0; other platforms have other rules."""
    container = start(user=user)
    wait_for("HEALTHCHECK", lambda: (0, "OK") == container.check())
    assert 0 == container.stop()


def test_arguments_of_upstreams_image_are_ignored(start: Start) -> None:
    """Neither the arguments of upstream's documentation, nor any that equals an option of ours."""
    arguments = [
        "-config",
        "/data/ratelimit/config/config.yaml",
        "--help",
        "--grpc-port",
        "1",
        "--no-such-option",
    ]
    container = start(command=("/bin/ratelimit", *arguments))
    assert arguments == container.wait_for_event("arguments ignored")["arguments"]
    assert 1 != port_of(container.grpc)


@pytest.mark.parametrize("without", ["", "REDIS_"], ids=["away", "unset"])
def test_the_container_does_not_fall_back_to_memory_without_redis(start: Start, without: str) -> None:
    """This holds without a variable that names a store, too: the counters would be lost with the container.

    It is not healthy, and reports the reason.
    """
    container = start(
        {"REDIS_URL": f"127.0.0.1:{free_port()}", "STORE_ANSWER_DEADLINE": "1s"}, without=without
    )
    assert "redis" in container.store
    code, said = container.check()
    assert 1 == code
    assert "redis" in said.lower()
    with calling(container.grpc) as caller:
        assert "UNAVAILABLE" == caller.status(start.domain, "model", "gpt")


# Other programs in the container


def test_an_init_container_can_wait_for_redis(image: Image, redis_server: RedisServer) -> None:
    """With sh, timeout and nc, as deployments of upstream's image do. If nothing listens, nc fails."""
    waiting = 'until timeout 5 nc -z 127.0.0.1 "$0"; do echo "waiting"; sleep 2; done; echo there'
    done = image.run("/bin/sh", "-c", waiting, str(redis_server.port))
    assert (0, "there\n") == (done.returncode, done.stdout)
    assert 1 == image.run("timeout", "5", "nc", "-z", "127.0.0.1", str(free_port())).returncode
    assert 124 == image.run("timeout", "0.05", "sleep", "60").returncode


def test_the_command_line_is_on_the_path(image: Image, start: Start) -> None:
    """`docker exec` can send a request to the service or check a file."""
    container = start()
    asked = image.run(
        *("ratelimit-service", "ask", start.domain, "model=gpt", "--hits", "30"),
        *("--server", f"127.0.0.1:{port_of(container.grpc)}"),
    )
    assert (0, "OK") == (asked.returncode, asked.stdout.split("\n")[0]), asked.stderr
    assert "70 of 100 left" in asked.stdout


# The content of the image


def test_packages_are_those_of_the_lock_file(image: Image) -> None:
    """All packages of the lock file for this platform, in its versions, and otherwise only the service."""
    program = (
        "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), "
        "sep='\\n')"
    )
    output = image.run("/opt/ratelimit/bin/python", "-I", "-c", program)
    installed = dict(
        line.lower().replace("_", "-").replace(".", "-", 0).split("==") for line in output.stdout.split()
    )
    environment = {"python_version": "3.11", "python_full_version": "3.11.2"}
    locked = {}
    for line in (REPOSITORY / "requirements-tracing.lock").read_text().splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate(environment):
                locked[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    for tool in ("setuptools", "cython"):
        del locked[canonicalize_name(tool)]
    assert "0.2.0" == installed.pop("ratelimit-service")
    assert locked == installed


def test_every_debian_package_in_the_image_has_the_text_of_its_licence(image: Image) -> None:
    """As docs/licences.md says."""
    listed = image.run("dpkg-query", "--show", "--showformat", "${Package}\n").stdout.split()
    assert {"libnghttp2-14", "python3"} <= set(listed)
    copyrights = {f"/usr/share/doc/{name}/copyright" for name in listed}
    found = image.run("/bin/sh", "-c", "ls /usr/share/doc/*/copyright").stdout.split()
    assert [] == sorted(copyrights - set(found))


def test_no_build_tool_is_in_the_image(image: Image) -> None:
    """No compiler, no pip, no Cython, and no Debian package that fetches Python packages."""
    tools = "cc gcc c99 g++ make ld as pip pip3 easy_install cython curl wget perl"
    found = image.run("/bin/sh", "-c", f"for tool in {tools}; do command -v $tool; done; true").stdout.split()
    assert ["/usr/bin/perl"] == found, "Debian's own perl-base is there; apt and debconf need it"
    for module in ("pip", "setuptools", "Cython", "ensurepip"):
        assert 1 == image.run("/opt/ratelimit/bin/python", "-I", "-c", f"import {module}").returncode


def test_only_world_writable_paths_can_be_written(image: Image) -> None:
    """Neither its user nor another one of the group 0 can, and no file is setuid."""
    everybodys = {"/tmp", "/var/tmp", "/run/lock"}
    found, setuid = set(), set()
    for directory, directories, files in os.walk(image.root):
        if Path(directory) == image.root:
            directories[:] = [name for name in directories if name not in ("dev", "proc", "sys")]
        for name in (*directories, *files):
            path = Path(directory, name)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                continue
            inside = f"/{path.relative_to(image.root)}"
            if (
                status.st_uid != 0
                or status.st_mode & stat.S_IWOTH
                or (status.st_mode & stat.S_IWGRP and not status.st_gid)
            ):
                found.add(inside)
            if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(status.st_mode):
                setuid.add(inside)
    assert everybodys == found
    assert set() == setuid


def test_every_module_has_unchecked_bytecode(image: Image) -> None:
    """Its bytecode is not checked against the source, because nothing could be written at run time."""
    site = image.root / SITE
    modules = [path for path in site.rglob("*.py") if "lib2to3" not in path.parts]
    assert len(modules) > 500
    unchecked = 1  # PEP 552: by a hash, and not to be compared
    for module in modules:
        (compiled,) = (module.parent / "__pycache__").glob(f"{module.stem}.cpython-311.pyc")
        assert unchecked == int.from_bytes(compiled.read_bytes()[4:8], "little"), module


def test_the_page_for_browsers_is_in_the_image(image: Image) -> None:
    """Every file of it."""
    page = REPOSITORY / "ratelimit_service" / "http" / "page"
    wanted = {path.relative_to(page) for path in page.rglob("*") if path.is_file()}
    there = image.root / SITE / "ratelimit_service" / "http" / "page"
    assert wanted == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}


def test_the_size_of_the_image_is_bounded(image: Image) -> None:
    """It has no caches and no package lists."""
    assert [] == list((image.root / "var/lib/apt/lists").iterdir())
    assert not (image.root / "root/.cache").exists()
    size = sum(path.lstat().st_size for path in image.root.rglob("*") if not path.is_symlink())
    assert size / 1e6 < LARGEST
