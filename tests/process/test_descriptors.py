"""More silent connections than file descriptors: other callers are answered, and rules are reloaded."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from testing.service import COMMAND, Service, calling, port_of
from testing.waiting import wait_for

from .conftest import rules, write

TRANSPORTS = pytest.mark.parametrize("transport", ["grpcio", "native"])


def limited(environment: Mapping[str, str], soft: int, hard: int | None = None) -> Service:
    """Return a service with this soft limit of open files, which may rise to `hard`."""
    shell = ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard or soft} && exec "$@"', "sh")
    return Service(environment, command=(*shell, *COMMAND, "serve"))


@contextlib.contextmanager
def silent(address: str, count: int) -> Iterator[None]:
    """Open this many connections, and send nothing on them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most[1] < count + 500:
        pytest.skip(f"the tests may not have {count} files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most[1], most[1]))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, most)
        for _ in range(count):
            connection = opened.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port_of(address)))
        yield


@TRANSPORTS
@pytest.mark.parametrize(("files", "count"), [(256, 320), (1_024, 1_200)])
def test_silent_connections_to_http_ports_do_not_block_other_clients(
    config: str, transport: str, files: int, count: int
) -> None:
    """Health, metrics and gRPC answer and a change of the rules is loaded, both during the attack and after
    it.
    """
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with limited(environment, files) as service:
        with silent(service.http, count), silent(service.metrics, count), calling(service.grpc) as caller:
            assert (200, "OK") == service.health()
            assert files * 0.9 > service.metric("process_open_fds")
            assert 10 == caller.limit("d", "team", "dba")
            write(Path(config), rules("d", 11))
            wait_for("the change", lambda: caller.limit("d", "team", "dba") == 11)
            assert (200, "OK") == service.health()
        with calling(service.grpc) as caller:
            write(Path(config), rules("d", 12))
            wait_for("the next change", lambda: caller.limit("d", "team", "dba") == 12)
        assert 0 == service.stop()
        assert [] == service.events("a connection cannot be accepted")


@TRANSPORTS
def test_silent_connections_to_grpc_leave_file_descriptors_for_other_uses(
    config: str, transport: str
) -> None:
    """GRPC_MAX_CONNECTIONS is reduced to fit the limit of open files, and a log line says so."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with limited(environment, 512) as service, calling(service.grpc) as caller:
        assert 10 == caller.limit("d", "team", "dba")
        with silent(service.grpc, 600):
            assert (200, "OK") == service.health()
            write(Path(config), rules("d", 11))
            wait_for("the change", lambda: caller.limit("d", "team", "dba") == 11)
            # Reading the rules in another process needs some for a moment.
            wait_for("descriptors to spare", lambda: service.metric("process_open_fds") < 512 * 0.95)
        (line,) = [event for event in service.everything() if "does not fit" in event["@message"]]
        assert ("warning", 10_000, 512) == (line["level"], line["wanted"], line["open_files"])
        assert 300 < line["connections"] < 400
        assert 0 == service.stop()


def test_the_soft_limit_of_files_is_raised(config: str) -> None:
    """With a high hard limit, GRPC_MAX_CONNECTIONS need not be reduced."""
    hard = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    with limited({"BACKEND_TYPE": "memory", "CONFIG_PATH": config}, 256, hard) as service:
        assert (hard, hard) == resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        clamped = [event for event in service.everything() if "does not fit" in event["@message"]]
        assert bool(clamped) is (hard < 13_200)
