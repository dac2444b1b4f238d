"""Addresses of ports: every notation, and the ownership of socket paths, on the HTTP ports and both
transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from ratelimit_service.core.errors import StartError
from ratelimit_service.http.messages import Request, Response, text
from ratelimit_service.http.server import HttpPort
from ratelimit_service.listening.addresses import Address
from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.runtime.locks import locked
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.options import GrpcOptions

from ..transports.serving import CHECK, TRANSPORTS, Served, serve

EVERYWHERE = ["", "::", "[::]", "0.0.0.0", "0:0:0:0:0:0:0:0"]
BOTH = {"127.0.0.1", "::1"}


def has_ipv6() -> bool:
    """Return whether this machine can be reached at ::1."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


async def hello(request: Request) -> Response:
    return text("hello")


Open = Callable[[str], Awaitable[str]]
"""Opens a port at a host, and returns the address that it reports."""


@pytest.fixture(params=["http", *TRANSPORTS])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Open a port of one kind."""
    async with AsyncExitStack() as stack:

        async def at(host: str) -> str:
            if request.param == "http":
                port = HttpPort(hello, host, 0)
                await port.start()
                stack.push_async_callback(port.stop, 1)
                return port.address
            served = await serve(GrpcOptions(str(Address(host.strip("[]"), 0))), request.param)
            stack.push_async_callback(served.server.stop, 0)
            stack.push_async_callback(served.channel.close, None)
            return served.server.address

        yield at


def reached(address: str) -> set[str]:
    """Return the hosts of this machine at which something listens on the port of an address."""
    port = Address.of(address).port
    found = set()
    for host in BOTH:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            continue
        found.add(host)
    return found


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [
        ("127.0.0.1", 8081, "127.0.0.1:8081"),
        ("localhost", 8081, "localhost:8081"),
        ("", 8081, ":8081"),
        ("::", 8081, "[::]:8081"),
        ("fd00::2", 8081, "[fd00::2]:8081"),
        ("fe80::1%eth0", 0, "[fe80::1%eth0]:0"),
    ],
)
def test_an_address_is_shown_as_in_go(host: str, port: int, written: str) -> None:
    """The shown address can be parsed again."""
    address = Address(host, port)
    assert (written, address) == (str(address), Address.of(written))


@needs_ipv6
@pytest.mark.parametrize("host", EVERYWHERE)
async def test_an_unspecified_address_stands_for_both_ip_families(opened: Open, host: str) -> None:
    """In any notation, as in upstream. So a cluster with IPv6 only needs no other setting."""
    assert BOTH == await asyncio.to_thread(reached, await opened(host))


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "where", "said"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "[::1]"),
        ("[::1]", "::1", "[::1]"),
        ("localhost", "127.0.0.1", "localhost"),
    ],
)
async def test_a_specific_address_is_listened_on_alone(
    opened: Open, host: str, where: str, said: str
) -> None:
    """For a name, it is the first IPv4 address, as in Go."""
    address = await opened(host)
    assert ({where}, said) == (await asyncio.to_thread(reached, address), address.rpartition(":")[0])


def own_address() -> str | None:
    """Return an IPv6 address of this machine other than loopback, with its zone if needed."""
    lines = Path("/proc/net/if_inet6").read_text().splitlines() if has_ipv6() else []
    for line in lines:
        digits, _, _, scope, _, device = line.split()
        host = ":".join(digits[place : place + 4] for place in range(0, 32, 4))
        if device != "lo":
            return f"{host}%{device}" if scope == "20" else host
    return None


@pytest.mark.skipif(own_address() is None, reason="this machine has no IPv6 address")
async def test_an_own_ipv6_address_is_listened_on(opened: Open) -> None:
    """As of a pod, or one that needs its zone."""
    host = own_address()
    assert host is not None
    address = Address.of(await opened(host))
    family, place = address.resolved()
    with socket.socket(family) as connection:
        connection.settimeout(5)
        await asyncio.to_thread(connection.connect, place)


async def test_a_machine_without_ipv6_listens_on_ipv4(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """With IPv6 switched off, its sockets can be created, but not bound."""
    create = socket.create_server

    def without(place: Any, *, family: int = socket.AF_INET, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(place, family=family, **options)

    monkeypatch.setattr(socket, "create_server", without)
    assert "127.0.0.1" in await asyncio.to_thread(reached, await opened("::"))


@needs_ipv6
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_port_that_is_in_use_for_one_ip_family_is_refused(
    transport: str, family: socket.AddressFamily
) -> None:
    """Otherwise, a part of the gateways would reach another service."""
    place = ("127.0.0.1" if family == socket.AF_INET else "::1", 0)
    with socket.create_server(place, family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as raised:
            await serve(GrpcOptions(f"[::]:{port}"), transport)
    assert f"cannot listen for gRPC on [::]:{port}: is the port taken? Choose another with GRPC_PORT" == str(
        raised.value
    )


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("nobody.invalid", ""),
        ("a" * 70 + "\u00e4", "Name or service not known"),
    ],
)
async def test_an_unusable_address_is_reported_in_one_line(opened: Open, host: str, why: str) -> None:
    """With the reason of the operating system."""
    with pytest.raises(StartError) as raised:
        await opened(host)
    assert str(raised.value).startswith("cannot listen for ")
    assert str(raised.value).endswith(f" on {host}:0: {why}") or not why


# Unix sockets


Serve = Callable[[Path], Awaitable[Served]]


@pytest.fixture(params=TRANSPORTS)
async def serving(request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """Return a function that starts a server at a path. Servers stop at the end of the test."""
    started: list[Served] = []

    async def at(path: Path) -> Served:
        started.append(await serve(GrpcOptions(f"unix:{path}"), request.param))
        return started[-1]

    yield at
    for served in started:
        await served.channel.close(None)
        await served.server.stop(0)


async def answers(path: Path) -> bool:
    """Return whether the path accepts and serves a connection."""
    async with aio.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
        try:
            await method(CHECK, timeout=60)
        except aio.AioRpcError:
            return False
    return True


def refusal(path: Path) -> str:
    return f"cannot listen for gRPC on unix:{path}: another process has this path: give each one of its own"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "grpc.sock"


def left_in(directory: Path) -> list[str]:
    """Return the names of the files in a directory."""
    return [found.name for found in directory.iterdir()]


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Another program, which uses no lock, and takes the path from its owner.

    It can still be reached there at the end.
    """
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        yield
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))


@pytest.fixture
def left_behind(path: Path) -> None:
    """Leave a socket without a listener, and a lock without an owner."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    path.with_name(f"{path.name}.lock").touch()


@pytest.fixture
def precious(path: Path) -> Callable[[], str]:
    """Write a file at the path, and return its content."""
    path.write_text("precious")
    return path.read_text


async def test_a_path_belongs_to_the_first_process(serving: Serve, path: Path) -> None:
    """A second one does not start, and the first continues. After its stop, no file is left."""
    first = await serving(path)
    with pytest.raises(StartError) as raised:
        await serving(path)
    assert (refusal(path), True) == (str(raised.value), await answers(path))
    await first.server.stop(0)
    assert [] == left_in(path.parent)
    await serving(path)
    assert await answers(path)


@pytest.mark.usefixtures("left_behind")
async def test_the_socket_of_a_killed_process_is_replaced(serving: Serve, path: Path) -> None:
    """No operator has to remove it."""
    await serving(path)
    assert await answers(path)


async def test_a_socket_of_another_program_is_left_alone(serving: Serve, path: Path) -> None:
    """It listens, although it has no lock."""
    with listening(path):
        with pytest.raises(StartError) as raised:
            await serving(path)
        assert refusal(path) == str(raised.value)


async def test_a_file_at_the_path_is_left_alone(
    serving: Serve, path: Path, precious: Callable[[], str]
) -> None:
    """It may be valuable."""
    with pytest.raises(StartError) as raised:
        await serving(path)
    assert (refusal(path), "precious") == (str(raised.value), precious())


async def test_a_stop_does_not_remove_the_socket_of_another_program(serving: Serve, path: Path) -> None:
    """That program can still be reached."""
    served = await serving(path)
    with listening(path):
        await served.server.stop(0)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Return a directory whose path is almost too long for a socket."""
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("name", "why"), [("grpc.sock", "too long"), ("missing/grpc.sock", "No such file or directory")]
)
async def test_an_unusable_socket_path_is_reported_in_one_line(
    serving: Serve, deep: Path, name: str, why: str
) -> None:
    """No file is left behind."""
    with pytest.raises(StartError, match=why):
        await serving(deep / name)
    assert [] == left_in(deep)


def test_a_lock_file_that_was_removed_is_created_again(tmp_path: Path) -> None:
    """A process that opened it before its removal does not keep a lock that no other process can see."""
    path = tmp_path / "lock"
    descriptors = [locked(path)]
    path.unlink()
    descriptors.append(locked(path))
    with pytest.raises(BlockingIOError):
        locked(path)
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_lock_file_that_is_removed_while_it_is_locked_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner may stop, and remove it, after another process has opened it."""
    path = tmp_path / "lock"
    flock = fcntl.flock

    def overtaken(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    descriptor = locked(path)
    with pytest.raises(BlockingIOError):
        locked(path)
    os.close(descriptor)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6), *EVERYWHERE[:1]])
def test_a_reserved_port_is_shared_only_with_the_workers(host: str) -> None:
    """Another service cannot listen on it, with or without SO_REUSEPORT."""
    with Address(host, 0).reserve("gRPC") as reserved:
        address = Address(host, reserved.getsockname()[1])
        for unwelcome in (address.listen, address.reserve):
            with pytest.raises(StartError, match="is the port taken"):
                unwelcome("gRPC")
        with address.listen("gRPC", shared=True) as first, address.listen("gRPC", shared=True) as second:
            first.setblocking(False)
            second.setblocking(False)
            accepted = 0
            for _ in range(8):
                with socket.create_connection((host or "127.0.0.1", address.port), timeout=60):
                    pass
            for listening in (first, second):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        listening.accept()[0].close()
                        accepted += 1
            assert 8 == accepted  # no connection waits at the socket that only reserves the port
            with pytest.raises(StartError, match="is the port taken"):
                address.listen("gRPC")
