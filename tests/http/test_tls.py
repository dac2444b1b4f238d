"""The HTTP ports served with TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from ratelimit_service.http.messages import Request, Response, text
from ratelimit_service.http.server import HttpPort
from ratelimit_service.listening.certificates import Certificates
from testing.certificates import Authority, handshake
from testing.service import ConfigMapMount, port_of

Start = Callable[..., Awaitable[HttpPort]]


async def hello(request: Request) -> Response:
    return text("hello")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Open ports with certificates, and close them after the test."""
    ports: list[HttpPort] = []

    async def begin(certificate: str, key: str) -> HttpPort:
        certificates = Certificates("HTTP", certificate, key)
        ports.append(HttpPort(hello, "127.0.0.1", 0, certificates=certificates))
        await ports[-1].start()
        return ports[-1]

    yield begin
    for port in ports:
        await port.stop(1)


async def seen(port: HttpPort, context: ssl.SSLContext, host: str = "localhost") -> bytes:
    """Return the certificate that a new connection gets."""
    return (await asyncio.to_thread(handshake, port.address, context, host))[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_client_that_trusts_the_ca_is_answered(
    start: Start, authority: Authority, tmp_path: Path, host: str
) -> None:
    """The client may use a name, which it sends as SNI, or an address."""
    port = await start(*authority.server().write(tmp_path))
    async with httpx.AsyncClient(verify=authority.context(), trust_env=False, timeout=60) as client:
        assert "hello\n" == (await client.get(f"https://{host}:{port_of(port.address)}/")).text


async def test_a_plain_client_is_refused(start: Start, authority: Authority, tmp_path: Path) -> None:
    """There is no fallback to plaintext."""
    port = await start(*authority.server().write(tmp_path))
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://{port.address}/")


async def test_a_client_that_trusts_another_ca_disconnects(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    """It cannot verify the server."""
    port = await start(*authority.server().write(tmp_path))
    async with httpx.AsyncClient(verify=Authority().context(), trust_env=False, timeout=60) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(f"https://{port.address}/")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The server refuses: the client supports them."""
    port = await start(*authority.server().write(tmp_path))
    with pytest.raises(OSError) as error:
        await seen(port, authority.context(version))
    assert "NO_PROTOCOLS_AVAILABLE" != getattr(error.value, "reason", None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_versions_of_tls_are_accepted(
    start: Start, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """The server uses the certificate in the file."""
    pair = authority.server()
    port = await start(*pair.write(tmp_path))
    assert pair.der == await seen(port, authority.context(version))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_certificates_are_renewed_during_requests(
    start: Start, authority: Authority, tmp_path: Path, host: str, version: ssl.TLSVersion
) -> None:
    """Open connections continue, and each new one gets the newest certificate."""
    pair = authority.server()
    mount = ConfigMapMount(tmp_path / "secret", {"c": pair.certificate.decode(), "k": pair.key.decode()})
    port = await start(str(mount.directory / "c"), str(mount.directory / "k"))
    context = authority.context(version)
    async with httpx.AsyncClient(verify=authority.context(), trust_env=False, timeout=60) as client:
        first = await client.get(f"https://{port.address}/")
        for _ in range(5):
            pair = authority.server()
            mount.update({"c": pair.certificate.decode(), "k": pair.key.decode()})
            assert pair.der == await seen(port, context, host)
            answer = await client.get(f"https://{port.address}/")
            assert ("hello\n", _connection(first)) == (answer.text, _connection(answer))


def _connection(answer: httpx.Response) -> object:
    """Return the client's end of the connection of an answer."""
    return answer.extensions["network_stream"].get_extra_info("client_addr")


async def test_a_broken_renewal_affects_no_call(start: Start, authority: Authority, tmp_path: Path) -> None:
    """The previous certificate stays in use, the log has one line, and repaired files are used."""
    before, after = authority.server(), authority.server()
    port = await start(*before.write(tmp_path))
    with capture_logs() as logged:
        after._replace(key=before.key).write(tmp_path)
        assert [before.der] * 3 == [await seen(port, authority.context()) for _ in range(3)]
        after.write(tmp_path)
        assert after.der == await seen(port, authority.context())
    assert ["error", "info"] == [line["log_level"] for line in logged]
