"""Certificates in files, signed by a CA of the tests."""

from __future__ import annotations

import datetime
import socket
import ssl
import warnings
from pathlib import Path
from typing import NamedTuple

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from .waiting import PATIENCE


class Pair(NamedTuple):
    """A certificate with its chain, and its key, in PEM."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str = "tls") -> tuple[str, str]:
        """Write both to files, and return their paths."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)
        return str(certificate), str(key)

    @property
    def der(self) -> bytes:
        """The certificate in DER, as a client sees it."""
        first, end, _ = self.certificate.partition(b"-----END CERTIFICATE-----\n")
        return ssl.PEM_cert_to_DER_cert((first + end).decode())


class Authority:
    """A CA; with `below`, an intermediate CA of that one, which is part of the chain of its certificates."""

    def __init__(self, below: Authority | None = None) -> None:
        self._ca: trustme.CA = trustme.CA() if below is None else below._ca.create_child_ca()
        self.pem = self._ca.cert_pem.bytes()

    def issue(self, *names: str) -> Pair:
        """Issue a certificate for these names and addresses."""
        issued = self._ca.issue_cert(*names)
        return Pair(b"".join(pem.bytes() for pem in issued.cert_chain_pems), issued.private_key_pem.bytes())

    def server(self) -> Pair:
        """Issue a certificate for servers on this machine."""
        return self.issue("localhost", "127.0.0.1")

    def workload(self, uri: str) -> Pair:
        """Issue a certificate for a workload, as a mesh does: its only name is a URI."""
        # trustme has no URIs.
        issuer = x509.load_pem_x509_certificate(self.pem)
        signer = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            # An empty subject makes it critical (RFC 5280).
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .sign(signer, hashes.SHA256())
        )
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def write(self, directory: Path, name: str = "ca") -> str:
        """Write its certificate to a file, and return the path."""
        path = directory / f"{name}.crt"
        path.write_bytes(self.pem)
        return str(path)

    def channel(self, client: Pair | None = None) -> grpc.ChannelCredentials:
        """Return the credentials of a gRPC client that trusts this CA, maybe with a certificate."""
        certificate, key = client or (None, None)
        return grpc.ssl_channel_credentials(self.pem, key, certificate)

    def context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Return the same for other clients; `version` is their only TLS version."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        if version is not None:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")  # otherwise OpenSSL refuses old versions itself
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
        return context


def handshake(address: str, context: ssl.SSLContext, called: str = "localhost") -> tuple[bytes, str]:
    """Connect, and return the certificate of the server and the TLS version. Raises OSError. Blocks.

    `called` is the client's name for the server, sent as SNI unless it is an address.
    """
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=called) as connection,
    ):
        certificate, version = connection.getpeercert(binary_form=True), connection.version()
        assert certificate is not None
        assert version is not None
        return certificate, version
