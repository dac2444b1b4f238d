"""Background work continues without file descriptors, with a Redis that sends invalid replies, and with a
file that does not answer.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.redis_servers import RedisServer
from testing.service import Service, Serving, calling, port_of
from testing.waiting import wait_for

from ..loading.blocking_file import HeldFile, children
from .conftest import rules, write

FAILURES = 'ratelimit_service_background_failures{task="%s"}'


@contextmanager
def no_descriptors(pid: int) -> Iterator[None]:
    """The process cannot open a file descriptor in this context."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_rules_are_reloaded_after_a_shortage_of_file_descriptors(config: str, transport: str) -> None:
    """A change during the shortage is in force soon after it, and calls are answered all the time."""
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


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_ports_accept_connections_after_a_shortage_of_file_descriptors(config: str, transport: str) -> None:
    """Connections made during the shortage may have been closed, but every port accepts new ones."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with Service(environment) as service, contextlib.ExitStack() as opened:
        with no_descriptors(service.pid):
            for address in (service.grpc, service.http, service.metrics) * 5:
                connection = opened.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex(("127.0.0.1", port_of(address)))
            service.wait_for_event("a connection cannot be accepted")
        with calling(service.grpc) as caller:
            assert 10 == caller.limit("d", "team", "dba")
        assert (200, "OK") == service.health()
        assert 0 < service.metric("process_open_fds")
        assert 0 == service.stop()


class Nonsense(socketserver.ThreadingTCPServer):
    """A proxy for Redis. It sends replies that no driver can parse while `talks_nonsense` is set."""

    daemon_threads = True

    def __init__(self, redis: RedisServer) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.redis = redis
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
        with socket.create_connection(("127.0.0.1", self.server.redis.port)) as redis:
            back = threading.Thread(target=self._pump_back, args=(redis,), daemon=True)
            back.start()
            while data := self.request.recv(65_536):
                if self.server.talks_nonsense.is_set():
                    self.request.sendall(b"-MOVED nonsense\r\n")
                else:
                    redis.sendall(data)
            redis.shutdown(socket.SHUT_RDWR)
            back.join()

    def _pump_back(self, redis: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := redis.recv(65_536):
                self.request.sendall(data)


def test_the_service_is_unhealthy_while_replies_of_redis_cannot_be_parsed(config: str) -> None:
    """The checks continue whatever the driver raises, and the failure is counted and logged."""
    with (
        RedisServer() as behind,
        Nonsense(behind) as redis,
        Service({"REDIS_URL": redis.address, "CONFIG_PATH": config}) as service,
    ):
        wait_for("healthy", lambda: service.health() == (200, "OK"))
        redis.talks_nonsense.set()
        wait_for("unhealthy", lambda: service.health() == (500, "unhealthy: redis"))
        redis.talks_nonsense.clear()
        wait_for("healthy again", lambda: service.health() == (200, "OK"))
        assert 0 == service.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_that_waits_for_its_first_rules(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The file does not answer. The process that reads it ends too, and no port is opened."""
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
