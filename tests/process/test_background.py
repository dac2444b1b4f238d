"""Work beside the calls goes on: when descriptors run out, when Redis talks nonsense, and when a file does not answer."""

from __future__ import annotations

import resource
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.service import COMMAND, Service, Serving, calling, port_of
from testing.waiting import wait_for

from ..loading.held import HeldFile, children
from .conftest import rules, write

FAILURES = 'ratelimit_service_background_failures{task="%s"}'


@contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """Meanwhile a process can open nothing more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_rules_are_reloaded_once_there_are_descriptors_again(config: str, transport: str) -> None:
    """A change that comes while there are none is in force soon after, and calls are answered all the time."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with Service(environment) as service, calling(service.grpc) as caller:
        assert 10 == caller.limit("d", "team", "dba")
        with no_descriptors(service.pid):
            write(Path(config), rules("d", 11))
            service.wait_for_event("configuration refused")
            assert 10 == caller.limit("d", "team", "dba")
        wait_for("the change", lambda: caller.limit("d", "team", "dba") == 11)
        assert 0 < service.metric("ratelimit_service_config_load_error")
        write(Path(config), rules("d", 12))
        wait_for("the next change", lambda: caller.limit("d", "team", "dba") == 12)
        assert 0 == service.stop()


def test_more_idle_connections_than_descriptors_end_no_reloading(config: str) -> None:
    """What was reported: 256 descriptors, 320 connections that say nothing, then none."""
    limited = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config}
    with Service(environment, command=(*limited, *COMMAND, "serve")) as service:
        port = port_of(service.http)
        idle = []
        for _ in range(320):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            idle.append(connection)
        write(Path(config), rules("d", 11))
        wait_for(
            "what comes of it",
            lambda: (
                service.events("configuration refused") or len(service.events("configuration loaded")) == 2
            ),
        )
        for connection in idle:
            connection.close()
        with calling(service.grpc) as caller:
            write(Path(config), rules("d", 12))
            wait_for("the change", lambda: caller.limit("d", "team", "dba") == 12)


class Nonsense(socketserver.ThreadingTCPServer):
    """A Redis that answers PING with what no driver can parse, as long as `talks_nonsense` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.talks_nonsense = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.server_address)

    def server_close(self) -> None:
        self.shutdown()
        self._thread.join()
        super().server_close()


class _Answer(socketserver.BaseRequestHandler):
    server: Nonsense

    def handle(self) -> None:
        while data := self.request.recv(65_536):
            if b"PING" in data:
                nonsense = self.server.talks_nonsense.is_set()
                self.request.sendall(b"-MOVED nonsense\r\n" if nonsense else b"+PONG\r\n")
            elif (b"INFO" in data and b"SETINFO" not in data) or b"TIME" in data:
                self.request.sendall(b"-ERR unknown command\r\n")
            else:
                self.request.sendall(b"+OK\r\n" * data.count(b"*"))


def test_a_redis_whose_answers_cannot_be_parsed_is_unhealthy_until_they_can(config: str) -> None:
    """The probe goes on, whatever the driver raises; it is counted and logged."""
    with (
        Nonsense() as redis,
        Service({"REDIS_URL": redis.address, "CONFIG_PATH": config}) as service,
    ):
        wait_for("healthy", lambda: service.health() == (200, "OK"))
        redis.talks_nonsense.set()
        wait_for("unhealthy", lambda: service.health() == (500, "unhealthy: redis"))
        redis.talks_nonsense.clear()
        wait_for("healthy again", lambda: service.health() == (200, "OK"))
        assert 0 == service.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_whose_first_rules_are_yet_to_be_read(
    tmp_path: Path, number: signal.Signals
) -> None:
    """From a file that does not answer: the process that reads it ends as well, and nothing is served."""
    path = tmp_path / "d.yaml"
    held = HeldFile(path)
    serving = Serving({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(path)})
    try:
        wait_for("somebody who reads the file", held.is_being_read)
        (child,) = children(serving.pid)
        serving.signal(number)
        assert 0 == serving.ended()
    finally:
        held.close()
        serving.kill()
    assert not Path(f"/proc/{child}").exists()
    assert [] == serving.events("serving")
    assert 1 == len(serving.events("stopping"))
