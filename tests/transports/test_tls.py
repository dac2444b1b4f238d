"""The clients that a gRPC port with TLS accepts, also while its certificates are replaced."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from ratelimit_service.listening.certificates import Certificates
from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.options import GrpcOptions
from testing.certificates import Authority, Pair, handshake
from testing.service import ConfigMapMount
from testing.waiting import PATIENCE, until

from . import h2
from .serving import CHARGE_40, CHECK, TRANSPORTS, Served, serve

Start = Callable[..., Awaitable[Served]]

ROTATIONS = 20


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return the CA of the server and of its clients."""
    return Authority()


@pytest.fixture(params=TRANSPORTS)
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """Return a function that starts servers with certificates. They stop after the test."""
    started: list[Served] = []

    async def begin(*files: str, client_name: str = "") -> Served:
        certificates = Certificates("gRPC", *files)
        options = GrpcOptions("localhost:0", certificates=certificates, client_name=client_name)
        started.append(await serve(options, request.param))
        return started[-1]

    yield begin
    for served in started:
        await served.channel.close(None)
        await served.server.stop(0)


@asynccontextmanager
async def calling(
    served: Served, credentials: grpc.ChannelCredentials | None
) -> AsyncIterator[Callable[[bytes], Awaitable[RateLimitResponse]]]:
    """Make calls over one connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    address = served.server.address
    channel = (
        aio.insecure_channel(address, options)
        if credentials is None
        else aio.secure_channel(address, credentials, options)
    )
    async with channel:
        method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)

        async def call(data: bytes) -> RateLimitResponse:
            response: RateLimitResponse = await method(data, timeout=60)
            return response

        yield call


async def status_of(served: Served, credentials: grpc.ChannelCredentials | None) -> tuple[str, str]:
    """Return the gRPC status of a charge, and its message."""
    async with calling(served, credentials) as call:
        try:
            await call(CHARGE_40)
        except aio.AioRpcError as error:
            return error.code().name, error.details() or ""
    return "OK", ""


async def test_a_client_that_trusts_the_ca_is_answered(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Without a CA for clients, any client is accepted."""
    served = await start(*authority.server().write(tmp_path))
    assert ("OK", "") == await status_of(served, authority.channel())
    assert [40] == list((await served.store.read_bucket("{llm|team=json}")).values())


async def test_a_plain_client_is_refused(start: Start, authority: Authority, tmp_path: Path) -> None:
    """There is no fallback to plaintext."""
    served = await start(*authority.server().write(tmp_path))
    assert "UNAVAILABLE" == (await status_of(served, None))[0]
    assert 0 == len(served.store)


async def test_a_client_that_trusts_another_ca_does_not_talk(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """It cannot verify the server."""
    served = await start(*authority.server().write(tmp_path))
    status, message = await status_of(served, Authority().channel())
    assert ("UNAVAILABLE", True) == (status, "CERTIFICATE_VERIFY_FAILED" in message)


async def test_a_client_needs_a_certificate_if_a_ca_for_clients_is_set(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """The CA must have signed it. Without a certificate, or with one of another CA, the client is refused and
    nothing is counted.
    """
    clients = Authority()
    served = await start(*authority.server().write(tmp_path), clients.write(tmp_path))
    assert "UNAVAILABLE" == (await status_of(served, authority.channel()))[0]
    assert "UNAVAILABLE" == (await status_of(served, authority.channel(authority.issue("envoy.mesh"))))[0]
    assert 0 == len(served.store)
    assert ("OK", "") == await status_of(served, authority.channel(clients.issue("envoy.mesh")))


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["envoy.mesh"], "OK"),
        (["a.mesh", "Envoy.Mesh"], "OK"),
        (["*.mesh"], "OK"),
        (["other.mesh"], "PERMISSION_DENIED"),
        (["127.0.0.1"], "PERMISSION_DENIED"),
    ],
)
async def test_a_client_may_need_a_name(
    start: Start, authority: Authority, tmp_path: Path, names: list[str], status: str
) -> None:
    """A valid certificate with another name gets the reason, and nothing is counted."""
    served = await start(
        *authority.server().write(tmp_path), authority.write(tmp_path), client_name="envoy.mesh"
    )
    reason = "" if status == "OK" else "the client's certificate does not have the DNS name envoy.mesh"
    assert (status, reason) == await status_of(served, authority.channel(authority.issue(*names)))
    assert (status == "OK") == bool(len(served.store))


async def test_probes_need_a_certificate_but_no_name(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Health reveals no budget."""
    served = await start(
        *authority.server().write(tmp_path), authority.write(tmp_path), client_name="envoy.mesh"
    )
    credentials = authority.channel(authority.issue("prober.mesh"))
    async with aio.secure_channel(served.server.address, credentials) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert health_pb2.HealthCheckResponse.SERVING == answer.status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The server refuses: the client supports them."""
    served = await start(*authority.server().write(tmp_path))
    with pytest.raises(OSError) as error:
        await asyncio.to_thread(handshake, served.server.address, authority.context(version))
    assert "NO_PROTOCOLS_AVAILABLE" != getattr(error.value, "reason", None)


@pytest.mark.parametrize(
    ("version", "expected"),
    [(None, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2")],
    ids=["the newest", "1.2"],
)
async def test_new_versions_of_tls_are_spoken(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion | None, expected: str
) -> None:
    """The newest common version is used."""
    pair = authority.server()
    served = await start(*pair.write(tmp_path))
    assert (pair.der, expected) == await asyncio.to_thread(
        handshake, served.server.address, authority.context(version)
    )


def mounted(pair: Pair, clients: Authority) -> dict[str, str]:
    """Return the files of a mounted Secret."""
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": clients.pem}
    return {name: content.decode() for name, content in files.items()}


async def everybody_goes_on(callers: list[asyncio.Task[None]], calls: list[int], before: list[int]) -> None:
    """Wait until each caller has made one call more than `before`, or one has failed."""
    await until(
        lambda: (
            any([caller.done() for caller in callers])
            or all([now > then for now, then in zip(calls, before, strict=True)])
        )
    )


async def test_certificates_are_renewed_during_calls(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """No call fails and no connection is dropped. Every new connection gets the newest certificate."""
    mount = ConfigMapMount(tmp_path / "secret", mounted(authority.server(), authority))
    served = await start(*(str(mount.directory / name) for name in ("tls.crt", "tls.key", "ca.crt")))
    credentials = authority.channel(authority.issue("envoy.mesh"))
    calls = [0, 0, 0, 0]
    done = asyncio.Event()

    async def stay(number: int) -> None:
        async with calling(served, credentials) as call:
            while not done.is_set():
                await call(CHECK)
                calls[number] += 1

    async def come_and_go(number: int) -> None:
        while not done.is_set():
            async with calling(served, credentials) as call:
                await call(CHECK)
            calls[number] += 1

    callers = [
        asyncio.create_task(caller(number))
        for number, caller in enumerate((stay, stay, come_and_go, come_and_go))
    ]
    # TLS 1.2: with 1.3, a handshake is over for the client before the server has looked at its certificate.
    context = authority.context(ssl.TLSVersion.TLSv1_2)
    context.load_cert_chain(*authority.issue("looker.mesh").write(tmp_path, "looker"))
    for _ in range(ROTATIONS):
        pair, before = authority.server(), list(calls)
        mount.update(mounted(pair, authority))
        assert pair.der == (await asyncio.to_thread(handshake, served.server.address, context))[0]
        await everybody_goes_on(callers, calls, before)
    done.set()
    await asyncio.gather(*callers)


async def test_a_ca_that_is_exchanged_is_in_force_for_new_connections(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Clients of the previous CA keep their connections, and cannot open new ones."""
    before, after = Authority(), Authority()
    served = await start(*authority.server().write(tmp_path), before.write(tmp_path, "clients"))
    old, new = (authority.channel(clients.issue("envoy.mesh")) for clients in (before, after))
    async with calling(served, old) as call:
        await call(CHECK)
        after.write(tmp_path, "clients")
        assert ["UNAVAILABLE", "OK"] == [(await status_of(served, old))[0], (await status_of(served, new))[0]]
        assert RateLimitResponse.OK == (await call(CHECK)).overall_code


def conversation(
    address: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSession | None:
    """Connect, read the first bytes of the server, and return the TLS session.

    Returns None if the server sends nothing. Blocks.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
                connection.sendall(h2.MAGIC + h2.settings())
                return connection.session if connection.recv(1_000) else None
        except OSError:  # with TLS 1.2, it refuses before it has said anything
            return None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_that_began_under_another_ca_is_not_resumed(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A resumed session sends no certificate, so a new CA must invalidate earlier sessions."""
    before, after = Authority(), Authority()
    served = await start(*authority.server().write(tmp_path), before.write(tmp_path, "clients"))
    context = authority.context(version)
    context.load_cert_chain(*before.issue("envoy.mesh").write(tmp_path, "client"))
    session = None
    for _ in range(2):
        session = await asyncio.to_thread(conversation, served.server.address, context, session)
        assert session is not None
    after.write(tmp_path, "clients")
    assert None is await asyncio.to_thread(conversation, served.server.address, context, session)
    assert None is await asyncio.to_thread(conversation, served.server.address, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_repeated_changes_of_the_ca_during_handshakes_admit_no_other_client(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Clients of both CAs keep their sessions. After the file is replaced, only clients of its CA are
    served.
    """
    authorities = Authority(), Authority()
    served = await start(*authority.server().write(tmp_path), authorities[0].write(tmp_path, "clients"))
    contexts = [authority.context(version) for _ in authorities]
    for number, context in enumerate(contexts):
        context.load_cert_chain(*authorities[number].issue("envoy.mesh").write(tmp_path, f"client-{number}"))
    sessions: list[ssl.SSLSession | None] = [None, None]

    async def connect(number: int) -> ssl.SSLSession | None:
        return await asyncio.to_thread(
            conversation, served.server.address, contexts[number], sessions[number]
        )

    for turn in range(6):
        trusted, other = turn % 2, 1 - turn % 2
        shaking = [asyncio.create_task(connect(number % 2)) for number in range(12)]
        authorities[trusted].write(tmp_path, "clients")
        for number, session in enumerate(await asyncio.gather(*shaking)):
            sessions[number % 2] = session or sessions[number % 2]
        assert None is await connect(other)
        sessions[trusted] = await connect(trusted)
        assert sessions[trusted] is not None


async def test_an_intermediate_ca_is_trusted_without_its_root(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Only the certificates that it signed are accepted, not others below the same root."""
    root = Authority()
    trusted, other = Authority(below=root), Authority(below=root)
    served = await start(*authority.server().write(tmp_path), trusted.write(tmp_path))
    assert ("OK", "") == await status_of(served, authority.channel(trusted.issue("envoy.mesh")))
    assert "UNAVAILABLE" == (await status_of(served, authority.channel(other.issue("envoy.mesh"))))[0]


async def test_a_name_that_is_refused_leaves_a_line(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """There is one line for any number of calls, and none for a probe, which needs no name."""
    served = await start(
        *authority.server().write(tmp_path), authority.write(tmp_path), client_name="envoy.mesh"
    )
    with capture_logs() as logged:
        credentials = authority.channel(authority.issue("other.mesh"))
        async with aio.secure_channel(served.server.address, credentials) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert [] == logged
        assert ["PERMISSION_DENIED"] * 2 == [(await status_of(served, credentials))[0] for _ in range(2)]
    (line,) = logged
    assert ("a client's certificate was refused", "gRPC", "it does not have the DNS name envoy.mesh") == (
        line["event"],
        line["port"],
        line["reason"],
    )


async def test_a_broken_renewal_affects_no_call(start: Start, authority: Authority, tmp_path: Path) -> None:
    """The previous certificate stays in use, the log has one line, and repaired files are used."""
    before, after = authority.server(), authority.server()
    served = await start(*before.write(tmp_path))
    with capture_logs() as logged:
        after._replace(key=before.key).write(tmp_path)
        assert [("OK", "")] * 3 == [await status_of(served, authority.channel()) for _ in range(3)]
        seen = await asyncio.to_thread(handshake, served.server.address, authority.context())
        assert before.der == seen[0]
        after.write(tmp_path)
        seen = await asyncio.to_thread(handshake, served.server.address, authority.context())
        assert after.der == seen[0]
    assert ["error", "info"] == [line["log_level"] for line in logged]
