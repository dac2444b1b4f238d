"""The command `ask`: sends a request as a gateway does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format

from ..core.errors import InvalidRequest, StoreError
from ..core.text import printable
from ..proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ..settings.types import host_port
from ..transports.grpc_method import PATH
from . import answer
from .entries import entries_of

_OVER = RateLimitResponse.OVER_LIMIT


class Tls(NamedTuple):
    """TLS of a client: the CA to trust (None: those of grpc), and the client's certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def check(self) -> list[bytes | None]:
        """Return the contents of the files.

        Raises InvalidRequest for an unreadable file, or for one of --cert and --key.
        """
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("--cert and --key belong together: give both, or none")
        return list(map(content, self))

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel. Raises InvalidRequest as `check` does."""
        ca, certificate, key = self.check()
        return grpc.ssl_channel_credentials(ca, key, certificate)


def ask(
    server: str,
    domain: str,
    descriptors: Sequence[str],
    hits: int,
    *,
    as_json: bool,
    timeout: float,
    tls: Tls | None = None,
) -> int:
    """Ask `server`, print its answer, and return the exit code: 0 for OK, 3 for OVER_LIMIT.

    Raises InvalidRequest for an invalid descriptor, address or file, and StoreError without an answer.
    """
    address = target(server)
    request = RateLimitRequest(domain=domain, explain=True)
    for text in descriptors:
        descriptor = request.descriptors.add(is_negative_hits=hits < 0)
        descriptor.hits_addend.value = abs(hits)
        for key, value in entries_of(text):
            descriptor.entries.add(key=key, value=value)
    with channel(address, tls) as opened:
        method = opened.unary_unary(
            PATH,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        try:
            response = method(request, timeout=timeout)
        except grpc.RpcError as error:
            details = printable(error.details() or "")
            # A port with TLS closes a connection that begins without it.
            ended = tls is None and ("closed" in details or "reset" in details)
            hint = " (if the port has TLS, give --tls or --ca)" if ended else ""
            raise StoreError(f"no decision from {server}: {error.code().name}: {details}{hint}") from None
    if as_json:
        print(json.dumps(_plain(json_format.MessageToDict(response)), indent=2))
    else:
        print("\n".join(answer.lines(domain, descriptors, response)))
    return 3 if response.overall_code == _OVER else 0


def channel(address: str, tls: Tls | None) -> grpc.Channel:
    """Return a channel to an address, with TLS if `tls` is given."""
    return grpc.secure_channel(address, tls.credentials()) if tls else grpc.insecure_channel(address)


def content(path: Path | None) -> bytes | None:
    """Return the content of a file; None without a path. Raises InvalidRequest."""
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or error}") from None


def target(server: str) -> str:
    """Return `server` as an address for grpc; an empty host means 127.0.0.1. Raises InvalidRequest."""
    if server.startswith("unix:"):
        return server
    try:
        host, _ = host_port(server)
    except ValueError as error:
        raise InvalidRequest(f'the server "{printable(server)}" {error}') from None
    return server if host else f"127.0.0.1{server}"


def _plain(value: Any) -> Any:
    """Return `value` with integers for whole numbers: a protobuf Struct has only doubles."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
