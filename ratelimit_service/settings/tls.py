"""The settings of transport security: who is served with which certificate, and whose certificates are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .field import setting
from .types import Bool, Text, optional_port

TLS = "TLS"


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """The part of `settings.Settings` that is about TLS of our own ports."""

    grpc_server_use_tls: Bool = setting(TLS, "false", "Whether the gRPC port is served with TLS, 1.2 and up.")
    grpc_server_tls_cert: Text = setting(
        TLS,
        "",
        "The file with the certificate of the gRPC port and its chain, in PEM. When a file here changes, new "
        "connections get what is in it.",
    )
    grpc_server_tls_key: Text = setting(TLS, "", "The file with its key, in PEM, without a passphrase.")
    grpc_client_tls_cacert: Text = setting(
        TLS,
        "",
        "The file with the CAs of the clients, in PEM, intermediate ones without their roots if need be; with it, every client "
        "must have a certificate that one of them signed.",
    )
    grpc_client_tls_san: Text = setting(
        TLS,
        "",
        "The DNS name that the client's certificate must have to ask for decisions; needs GRPC_CLIENT_TLS_CACERT.",
    )
    grpc_plaintext_port: Annotated[int | None, optional_port()] = setting(
        TLS,
        "",
        "A second gRPC port without TLS and without certificates of clients, for gateways that speak in the clear; empty: none; 0 is any "
        "free one. Ours.",
    )
    http_tls_cert: Text = setting(
        TLS,
        "",
        "The file with the certificate of the HTTP ports (main, debug, metrics) and its chain; empty: no TLS. Ours.",
    )
    http_tls_key: Text = setting(TLS, "", "The file with its key, without a passphrase. Ours.")
