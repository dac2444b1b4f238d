"""Certificates in files: which can be used, the messages about the others, and changes."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ratelimit_service.core.errors import StartError
from ratelimit_service.listening.certificates import Certificates, is_for
from testing.certificates import Authority, Pair
from testing.service import ConfigMapMount

ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIC\n-----END ENCRYPTED PRIVATE KEY-----\n"
NONSENSE = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.server()


def test_the_certificate_in_the_files_is_served(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """Byte for byte."""
    material = Certificates("gRPC", *pair.write(tmp_path), authority.write(tmp_path)).material
    assert (pair.certificate, pair.key, authority.pem) == material[:3]
    assert (ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED) == (
        material.context.minimum_version,
        material.context.verify_mode,
    )


def test_without_a_ca_no_client_needs_a_certificate(tmp_path: Path, pair: Pair) -> None:
    """Without a CA, a client certificate could not be verified."""
    material = Certificates("gRPC", *pair.write(tmp_path)).material
    assert (b"", ssl.CERT_NONE) == (material.clients, material.context.verify_mode)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tls.crt", None, "{}/tls.crt cannot be read: No such file or directory"),
        ("tls.key", None, "{}/tls.key cannot be read: No such file or directory"),
        ("ca.crt", None, "{}/ca.crt cannot be read: No such file or directory"),
        ("tls.crt", b"", "{}/tls.crt contains no certificate: use a file in PEM format"),
        ("tls.key", b"\x30\x82\x01", "{}/tls.key contains no private key: use a file in PEM format"),
        ("ca.crt", b"hello\n", "{}/ca.crt contains no certificate: use a file in PEM format"),
        ("tls.key", ENCRYPTED, "the key in {}/tls.key is encrypted: use a key without a passphrase"),
    ],
)
def test_an_unusable_file_is_reported_in_one_line(
    tmp_path: Path, authority: Authority, pair: Pair, file: str, content: bytes | None, reason: str
) -> None:
    """With its name and the reason."""
    files = (*pair.write(tmp_path), authority.write(tmp_path))
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(StartError) as error:
        Certificates("gRPC", *files)
    assert f"gRPC cannot be served with TLS: {reason.format(tmp_path)}" == str(error.value)


@pytest.mark.parametrize("file", ["tls.crt", "ca.crt"])
def test_a_file_that_only_resembles_a_certificate_is_reported(
    tmp_path: Path, authority: Authority, pair: Pair, file: str
) -> None:
    """With the error of OpenSSL."""
    files = (*pair.write(tmp_path), authority.write(tmp_path))
    (tmp_path / file).write_bytes(NONSENSE)
    with pytest.raises(StartError, match=f"{file}.* cannot be used: ") as error:
        Certificates("gRPC", *files)
    assert 1 == len(str(error.value).splitlines())


def test_a_key_of_another_certificate_is_reported(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """The message names both files."""
    certificate, _ = pair.write(tmp_path)
    _, key = authority.server().write(tmp_path, "other")
    with pytest.raises(StartError) as error:
        Certificates("HTTP", certificate, key)
    said = f"the key in {key} does not belong to the certificate in {certificate}"
    assert f"HTTP cannot be served with TLS: {said}" == str(error.value)


def test_unchanged_files_are_not_read_again(tmp_path: Path, pair: Pair) -> None:
    """A new modification time alone is no change of the certificate."""
    certificate, key = pair.write(tmp_path)
    certificates = Certificates("gRPC", certificate, key)
    before = certificates.material
    assert not certificates.renewed()
    os.utime(certificate, ns=(0, 0))
    assert not certificates.renewed()
    assert before is certificates.material


def test_a_rewritten_file_is_noticed(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """Once."""
    certificates = Certificates("gRPC", *pair.write(tmp_path))
    other = authority.server()
    other.write(tmp_path)
    with capture_logs() as logged:
        assert [True, False] == [certificates.renewed(), certificates.renewed()]
    assert (other.certificate, other.key) == certificates.material[:2]
    assert ["certificate renewed"] == [line["event"] for line in logged]


def test_an_updated_secret_of_kubernetes_is_noticed(tmp_path: Path, authority: Authority) -> None:
    """kubelet replaces a directory behind symbolic links; the paths stay the same."""

    def files(pair: Pair) -> dict[str, str]:
        return {"tls.crt": pair.certificate.decode(), "tls.key": pair.key.decode()}

    mount = ConfigMapMount(tmp_path / "secret", files(authority.server()))
    directory = mount.directory
    certificates = Certificates("gRPC", str(directory / "tls.crt"), str(directory / "tls.key"))
    for _ in range(3):
        other = authority.server()
        mount.update(files(other))
        assert certificates.renewed()
        assert (other.certificate, other.key) == certificates.material[:2]


def test_a_replaced_ca_is_noticed(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """Client certificates are renewed, too."""
    certificates = Certificates("gRPC", *pair.write(tmp_path), authority.write(tmp_path))
    other = Authority()
    other.write(tmp_path)
    assert certificates.renewed()
    assert other.pem == certificates.material.clients


def test_a_broken_renewal_keeps_the_previous_certificate(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    """It is reported once, however often the files are checked. A corrected file is used."""
    certificate, key = pair.write(tmp_path)
    certificates = Certificates("gRPC", certificate, key)
    before, other = certificates.material, authority.server()
    with capture_logs() as logged:
        Path(certificate).write_bytes(other.certificate)
        assert [False] * 3 == [certificates.renewed() for _ in range(3)]
        assert before is certificates.material
        Path(key).write_bytes(other.key)
        assert certificates.renewed()
    assert (other.certificate, other.key) == certificates.material[:2]
    said = f"the key in {key} does not belong to the certificate in {certificate}"
    assert [
        ("error", f"the previous certificate stays in use: {said}"),
        ("info", "certificate renewed"),
    ] == [(line["log_level"], line["event"]) for line in logged]


def test_missing_files_are_handled_as_broken_ones(tmp_path: Path, pair: Pair) -> None:
    """They may come back."""
    certificate, key = pair.write(tmp_path)
    certificates = Certificates("gRPC", certificate, key)
    before = certificates.material
    with capture_logs() as logged:
        Path(key).unlink()
        assert [False] * 3 == [certificates.renewed() for _ in range(3)]
    said = f"{key} cannot be read: No such file or directory"
    assert [f"the previous certificate stays in use: {said}"] == [line["event"] for line in logged]
    assert before is certificates.material


def test_files_that_change_while_they_are_read_are_read_again(
    tmp_path: Path, authority: Authority, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, the old certificate could be combined with the new key."""
    certificate, key = pair.write(tmp_path)
    certificates = Certificates("gRPC", certificate, key)
    before, other, another = certificates.material, authority.server(), authority.server()
    other.write(tmp_path)
    reading = Path.read_bytes

    def overtaken(path: Path) -> bytes:
        data = reading(path)
        monkeypatch.setattr(Path, "read_bytes", reading)
        another.write(tmp_path)
        return data

    monkeypatch.setattr(Path, "read_bytes", overtaken)
    assert not certificates.renewed()
    assert before is certificates.material
    assert certificates.renewed()
    assert (another.certificate, another.key) == certificates.material[:2]


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Do a handshake in memory. Only the server's side shows whether it succeeds."""
    upwards, downwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(downwards, upwards, server_hostname="localhost"),
        server.wrap_bio(upwards, downwards, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            with suppress(ssl.SSLError):
                end.do_handshake()


def test_a_refused_client_is_logged(tmp_path: Path, authority: Authority) -> None:
    """With the reason, once a minute for each reason, however many clients connect."""
    now = 1_000.0
    certificates = Certificates(
        "gRPC", *authority.server().write(tmp_path), authority.write(tmp_path), clock=lambda: now
    )
    context = certificates.server_context("h2")
    without, stranger, known = (authority.context() for _ in range(3))
    stranger.load_cert_chain(*Authority().issue("envoy.mesh").write(tmp_path, "stranger"))
    known.load_cert_chain(*authority.issue("envoy.mesh").write(tmp_path, "known"))
    missing, unknown = "there is none", "unable to get local issuer certificate"
    with capture_logs() as logged:
        for client in (without, stranger, known) * 3:
            shaken(context, client)
        assert [(missing, 1), (unknown, 1)] == [(line["reason"], line["times"]) for line in logged]
        now += 60
        for client in (known, stranger):
            shaken(context, client)
    assert {("warning", "a client's certificate was refused", "gRPC")} == {
        (line["log_level"], line["event"], line["port"]) for line in logged
    }
    assert [(unknown, 3)] == [(line["reason"], line["times"]) for line in logged[2:]]


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        ([b"envoy.mesh"], "envoy.mesh", True),
        ([b"a.mesh", b"envoy.mesh"], "envoy.mesh", True),
        ([b"Envoy.MESH"], "envoy.mesh", True),
        ([b"envoy.mesh"], "ENVOY.mesh", True),
        ([b"*.mesh"], "envoy.mesh", True),
        ([b"localhost"], "localhost", True),
        ([], "envoy.mesh", False),
        ([b"other.mesh"], "envoy.mesh", False),
        ([b"envoy.mesh.evil"], "envoy.mesh", False),
        ([b"xenvoy.mesh"], "envoy.mesh", False),
        ([b"mesh"], "envoy.mesh", False),
        ([b"*.mesh"], "a.envoy.mesh", False),
        ([b"*.mesh"], "mesh", False),
        ([b"*"], "envoy.mesh", False),
        ([b"*"], "localhost", False),
        ([b"*."], "localhost", False),
        ([b"*.*"], "envoy.mesh", False),
        ([b"\xff.mesh"], "envoy.mesh", False),
    ],
)
def test_a_certificate_is_valid_for_its_names(names: list[bytes], wanted: str, expected: bool) -> None:
    """In upper and lower case. A star stands for the first label only."""
    assert expected == is_for(names, wanted)
