"""The settings of TLS: the certificates of the ports, and those of their clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .field import setting
from .types import Bool, Text, optional_port

TLS = "TLS"


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """The fields of `table.Settings` for TLS of the ports."""

    grpc_server_use_tls: Bool = setting(TLS, "false", "Whether the gRPC port uses TLS (1.2 or later).")
    grpc_server_tls_cert: Text = setting(
        TLS,
        "",
        "The file with the certificate of the gRPC port and its chain, in PEM. New connections use the "
        "files here as they are then.",
    )
    grpc_server_tls_key: Text = setting(TLS, "", "The file with its key, in PEM, without a passphrase.")
    grpc_client_tls_cacert: Text = setting(
        TLS,
        "",
        "The file with the CAs of clients, in PEM; intermediate CAs need no root. If set, every client "
        "needs a certificate that one of them signed.",
    )
    grpc_client_tls_san: Text = setting(
        TLS,
        "",
        "The DNS name that a client's certificate needs for ShouldRateLimit; requires "
        "GRPC_CLIENT_TLS_CACERT.",
    )
    grpc_plaintext_port: Annotated[int | None, optional_port()] = setting(
        TLS,
        "",
        "A second gRPC port without TLS and client certificates, for gateways that do not use TLS; empty:"
        " none; 0 is any free one. Ours.",
    )
    http_tls_cert: Text = setting(
        TLS,
        "",
        "The file with the certificate of the HTTP ports (main, debug, metrics) and its chain; empty: no "
        "TLS. Ours.",
    )
    http_tls_key: Text = setting(TLS, "", "The file with its key, without a passphrase. Ours.")
