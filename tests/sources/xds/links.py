"""Connections to a control plane that a test controls."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from ratelimit_service.proto.xds_pb2 import DiscoveryResponse
from ratelimit_service.sources.xds.link import Link
from ratelimit_service.sources.xds.server import Server, Tls
from testing.certificates import Authority, Pair
from testing.control_plane import ControlPlane, limit, resource
from testing.waiting import PATIENCE

LARGEST = 1 << 20
A = resource("a", limit("team", 5))


def at(plane: ControlPlane, tls: Tls | None = None, **more: object) -> Server:
    return Server("cp", "127.0.0.1", plane.port, tls=tls, **more)  # type: ignore[arg-type]


async def received(link: Link) -> DiscoveryResponse:
    spool = await asyncio.wait_for(link.receive(), PATIENCE)
    return DiscoveryResponse.FromString(spool.read(0, spool.size))


def serving(pair: Pair, clients: Authority, directory: Path) -> ssl.SSLContext:
    """Return the TLS context of a control plane that demands a certificate from its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*pair.write(directory, "server"))
    context.load_verify_locations(cadata=clients.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context
