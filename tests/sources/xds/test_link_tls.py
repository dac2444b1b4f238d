"""TLS to a control plane."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from ratelimit_service.proto.xds_pb2 import DiscoveryRequest
from ratelimit_service.sources.xds.link import Unreachable, connect
from ratelimit_service.sources.xds.response import TYPE_URL
from ratelimit_service.sources.xds.server import Tls
from testing.certificates import Authority
from testing.control_plane import ControlPlane

from .links import LARGEST, A, at, received, serving


class Files:
    """The files of a control plane and of its client, as Envoy Gateway mounts them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority()
        self.tls = Tls("envoy-gateway", *(str(directory / name) for name in ("ca.crt", "tls.crt", "tls.key")))
        self.renew()

    def renew(self, authority: Authority | None = None) -> None:
        """Replace the certificate of the client by one from this CA."""
        self.authority = authority or self.authority
        self.authority.write(self.directory, "ca")
        self.authority.issue("*.envoy-gateway-system").write(self.directory, "tls")

    def trust(self, another: Authority) -> None:
        """Trust another CA as well."""
        ca = Path(self.tls.ca)
        ca.write_bytes(ca.read_bytes() + another.pem)

    def context(self, *names: str) -> ssl.SSLContext:
        """Return the TLS context of the control plane: TLS 1.3 only, and a certificate from every client."""
        return serving(self.authority.issue(*(names or ("envoy-gateway",))), self.authority, self.directory)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def refused(plane: ControlPlane, tls: Tls) -> str:
    with pytest.raises(Unreachable) as error:
        await connect(at(plane, tls), LARGEST, 0)
    return str(error.value)


async def test_the_tls_settings_of_envoy_gateway_work(files: Files) -> None:
    """It uses TLS 1.3 with certificates on both sides, and a server name that differs from the address."""
    plane = ControlPlane(files.context())
    await plane.start()
    plane.send(A, version="7")
    link = await connect(at(plane, files.tls), LARGEST, 0)
    link.send(DiscoveryRequest(type_url=TYPE_URL).SerializeToString())
    assert "7" == (await received(link)).version_info
    assert ("https", "envoy-gateway") == (plane.headers[0][":scheme"], plane.headers[0][":authority"])
    link.close()
    await plane.stop()


async def test_a_certificate_for_another_name_is_refused(files: Files) -> None:
    """The error has the expected name."""
    plane = ControlPlane(files.context("somebody-else"))
    await plane.start()
    assert "its certificate is refused: Hostname mismatch" in await refused(plane, files.tls)
    await plane.stop()


async def test_a_certificate_from_another_ca_is_refused(files: Files) -> None:
    """It is accepted once its CA is in the file, which is read at each connect and may have several."""
    other = Authority()
    plane = ControlPlane(serving(other.issue("envoy-gateway"), files.authority, files.directory))
    await plane.start()
    assert "its certificate is refused: unable to get local issuer" in await refused(plane, files.tls)
    files.trust(other)
    (await connect(at(plane, files.tls), LARGEST, 0)).close()
    await plane.stop()


async def test_a_refused_client_certificate_is_a_failed_attempt(files: Files) -> None:
    """TLS 1.3 reports the refusal after the handshake. With a renewed certificate, the next attempt
    succeeds.
    """
    plane = ControlPlane(files.context())
    await plane.start()
    good = files.authority
    stranger = Authority()
    stranger.issue("x").write(files.directory, "tls")
    assert await refused(plane, files.tls)  # our server of asyncio does not send the alert
    files.renew(good)
    (await connect(at(plane, files.tls), LARGEST, 0)).close()
    await plane.stop()


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("ca.crt", None, "{path} cannot be read: No such file or directory"),
        ("ca.crt", b"nothing", "{path} contains no certificate: use a file in PEM format"),
        ("tls.crt", None, "{path} cannot be read: No such file or directory"),
        ("tls.key", b"nothing", "tls.key cannot be used: "),
    ],
)
async def test_an_unusable_file_is_named(files: Files, name: str, content: bytes | None, why: str) -> None:
    """The follower continues, because the file may be valid at the next attempt."""
    path = files.directory / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    plane = ControlPlane()
    await plane.start()
    assert why.format(path=path) in await refused(plane, files.tls)
    await plane.stop()


async def test_a_control_plane_without_tls_is_refused_if_tls_is_required(
    files: Files, plane: ControlPlane
) -> None:
    """The error is that of TLS."""
    assert "TLS: " in await refused(plane, files.tls)
