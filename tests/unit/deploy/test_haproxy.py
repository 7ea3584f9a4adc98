"""The configuration of HAProxy, by its own check.

Should happen: addresses, names and TLS are accepted. Should not: a mistake that a test would overlook.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.haproxy import check_haproxy

ROOT = Path(__file__).parents[3]
HAPROXY = ROOT / "apps" / "domain" / "haproxy.cfg"
ADDRESSES = {f"PYGRID_REPLICA_{number}": f"10.0.0.{number}:5000" for number in (1, 2, 3)}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "domain.example")])
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin.replace(year=2036))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "domain.example.pem"
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("bind", ["127.0.0.1:8080", ":443 ssl crt {}"])
def test_haproxy_takes_addresses_and_tls(bind: str, certificate: Path) -> None:
    check_haproxy(HAPROXY, ADDRESSES | {"PYGRID_BIND": bind.format(certificate)})


def test_haproxy_starts_before_a_replica_has_an_address() -> None:
    names = {f"PYGRID_REPLICA_{number}": f"replica-{number}.invalid:5000" for number in (1, 2, 3)}
    check_haproxy(HAPROXY, names | {"PYGRID_BIND": ":8080"})


def test_a_mistake_would_be_found(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.read_text().replace("option redispatch", "option redispatched"))
    with pytest.raises(AssertionError, match="redispatched"):
        check_haproxy(config, ADDRESSES | {"PYGRID_BIND": ":8080"})
