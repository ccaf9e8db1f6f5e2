"""Row 74 of the catalogue: certificates of an authority of our own, good and bad."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest

from distribute.transports._base import (
    Context,
    Limits,
    Refused,
    SourceError,
)
from distribute.transports._web import Web
from tests.distribute import loopback
from tests.distribute.loopback import Mirror
from tests.faults import web_kit
from tests.faults.web_kit import DATA, FAST

mirror, web = web_kit.mirror, web_kit.web


# 74: TLS


def certificate(
    folder: Path, *, host: str = "127.0.0.1", days: int = 10, own_authority: bool = False
) -> ssl.SSLContext:
    """A server context with a certificate for `host`; its authority is written to folder/ca.pem, unless it signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        until = now + datetime.timedelta(days=days)
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, until) - datetime.timedelta(days=1))
            .not_valid_after(until)
        )

    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    basic = x509.BasicConstraints(ca=True, path_length=None)
    signer = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    top = builder("test authority", "test authority", authority).add_extension(basic, True)
    top = top.add_extension(signer, False).add_extension(usage, True)
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)]
    )
    leaf = builder(host, host if own_authority else "test authority", key).add_extension(names, False)
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
    )
    signed = leaf.sign(key if own_authority else authority, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(top.sign(authority, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(signed.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext) -> bytes:
    (tmp_path / "data.bin").write_bytes(DATA)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = Context(tmp_path, limits=Limits(attempts=1, stall_seconds=3), allow_private=True)
    with Mirror(tmp_path, tls=tls) as mirror, Web(context) as web:
        return web.request("GET", mirror.url + "data.bin").body


def test_a_good_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert https(tmp_path, monkeypatch, certificate(tmp_path)) == DATA


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"days": -2}, "expired"),
        ({"host": "other.example"}, "mismatch"),
        ({"own_authority": True}, "self-signed"),
    ],
)
def test_bad_certificates_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], word: str
) -> None:
    with pytest.raises(Refused, match=word):
        https(tmp_path, monkeypatch, certificate(tmp_path, **wrong))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_tls_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path)
    tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(SourceError, match="(?i)ssl|tls|protocol"):
        https(tmp_path, monkeypatch, tls)


def test_https_does_not_fall_back_to_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Mirror(tmp_path, tls=tls) as mirror, Mirror(tmp_path) as plain:
        mirror.wrong["away"] = loopback.redirect(plain.url + "data.bin")
        web = Web(Context(tmp_path, limits=FAST, allow_private=True))
        with web, pytest.raises(Refused, match="from https to"):
            web.request("GET", mirror.url + "away")
        assert plain.asked == []
