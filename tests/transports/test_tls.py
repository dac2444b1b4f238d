"""Who gets through to the gRPC port where it is served with TLS, while its certificates come and go."""

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
from testing.waiting import PATIENCE

from . import h2
from .serving import CHARGE_40, CHECK, TRANSPORTS, Served, serve, until

Start = Callable[..., Awaitable[Served]]

ROTATIONS = 20


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs for the server, and for its clients."""
    return Authority()


@pytest.fixture(params=TRANSPORTS)
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """Starts servers with certificates, and stops them when the test is over."""
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
    """Calls over one connection of their own."""
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
            response: RateLimitResponse = await method(data, timeout=10)
            return response

        yield call


async def status_of(served: Served, credentials: grpc.ChannelCredentials | None) -> tuple[str, str]:
    """The gRPC status that a charge gets, and its message."""
    async with calling(served, credentials) as call:
        try:
            await call(CHARGE_40)
        except aio.AioRpcError as error:
            return error.code().name, error.details() or ""
    return "OK", ""


async def test_a_client_that_trusts_the_ca_is_answered(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Whoever it is, where no certificate is asked for."""
    served = await start(*authority.server().write(tmp_path))
    assert ("OK", "") == await status_of(served, authority.channel())
    assert [40] == list((await served.store.read_bucket("{llm|team=json}")).values())


async def test_a_plain_client_is_refused(start: Start, authority: Authority, tmp_path: Path) -> None:
    """There is no way round TLS."""
    served = await start(*authority.server().write(tmp_path))
    assert "UNAVAILABLE" == (await status_of(served, None))[0]
    assert 0 == len(served.store)


async def test_a_client_that_trusts_another_ca_does_not_talk(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """It cannot know who we are."""
    served = await start(*authority.server().write(tmp_path))
    status, message = await status_of(served, Authority().channel())
    assert ("UNAVAILABLE", True) == (status, "CERTIFICATE_VERIFY_FAILED" in message)


async def test_a_client_needs_a_certificate_where_there_is_a_ca_for_clients(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """One that this CA has signed; none, and one of another CA, are refused before anything is counted."""
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
    """A valid certificate without it gets the reason, and counts nothing."""
    served = await start(
        *authority.server().write(tmp_path), authority.write(tmp_path), client_name="envoy.mesh"
    )
    reason = "" if status == "OK" else "the client's certificate does not have the DNS name envoy.mesh"
    assert (status, reason) == await status_of(served, authority.channel(authority.issue(*names)))
    assert (status == "OK") == bool(len(served.store))


async def test_probes_need_a_certificate_but_no_name(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Health tells nothing of anybody's budget."""
    served = await start(
        *authority.server().write(tmp_path), authority.write(tmp_path), client_name="envoy.mesh"
    )
    credentials = authority.channel(authority.issue("prober.mesh"))
    async with aio.secure_channel(served.server.address, credentials) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert health_pb2.HealthCheckResponse.SERVING == answer.status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """By the server: the client would speak them."""
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
    """The newest that both know."""
    pair = authority.server()
    served = await start(*pair.write(tmp_path))
    assert (pair.der, expected) == await asyncio.to_thread(
        handshake, served.server.address, authority.context(version)
    )


def mounted(pair: Pair, clients: Authority) -> dict[str, str]:
    """The files of a Secret."""
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": clients.pem}
    return {name: content.decode() for name, content in files.items()}


async def everybody_goes_on(callers: list[asyncio.Task[None]], calls: list[int], before: list[int]) -> None:
    """Wait until each caller has made a call more than `before`, or one has failed."""
    await until(
        lambda: (
            any([caller.done() for caller in callers])
            or all([now > then for now, then in zip(calls, before, strict=True)])
        )
    )


async def test_certificates_are_renewed_while_calls_go_on(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """Old connections and new ones: none fails, none is dropped, and every new one sees the newest
    certificate.
    """
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
    """Those of the CA before get no new one, and keep the ones that they have."""
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
    """Connect, and read what the server says first; the session that it has given.

    None where it says nothing. Blocks.
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
    """A resumed session shows no certificate, so what the client kept must be of no use to it any more."""
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
async def test_a_ca_that_is_replaced_again_and_again_during_handshakes_lets_nobody_else_in(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Whatever sessions the clients of both CAs have kept: once the file is replaced, its clients alone are served."""
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
    """Those that it signs for are let in, and nobody else below the same root."""
    root = Authority()
    trusted, other = Authority(below=root), Authority(below=root)
    served = await start(*authority.server().write(tmp_path), trusted.write(tmp_path))
    assert ("OK", "") == await status_of(served, authority.channel(trusted.issue("envoy.mesh")))
    assert "UNAVAILABLE" == (await status_of(served, authority.channel(other.issue("envoy.mesh"))))[0]


async def test_a_name_that_is_refused_leaves_a_line(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """One, however many calls there are; a probe, which needs no name, leaves none."""
    served = await start(
        *authority.server().write(tmp_path), authority.write(tmp_path), client_name="envoy.mesh"
    )
    with capture_logs() as logged:
        credentials = authority.channel(authority.issue("other.mesh"))
        async with aio.secure_channel(served.server.address, credentials) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert [] == logged
        assert ["PERMISSION_DENIED"] * 2 == [(await status_of(served, credentials))[0] for _ in range(2)]
    (line,) = logged
    assert ("a client's certificate was refused", "gRPC", "it does not have the DNS name envoy.mesh") == (
        line["event"],
        line["port"],
        line["reason"],
    )


async def test_a_broken_renewal_affects_no_call(start: Start, authority: Authority, tmp_path: Path) -> None:
    """The certificate that was there stays in use, the log says so once, and what is mended is taken."""
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
