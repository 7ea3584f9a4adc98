"""What an error of a connection blames: the server, the scheme, the proxy, or the certificate.

Should not happen: a dead proxy that is reported as a dead Domain; a password of a proxy in a message.
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pygrid.errors import Unavailable
from pygrid.transport import Request, open_transport
from pygrid.transport.proxies import without_credentials


@pytest.fixture
def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def failure(url: str) -> Unavailable:
    transport = open_transport(url)
    with pytest.raises(Unavailable) as error:
        transport.send(Request("GET", "/"))
    transport.close()
    assert error.value.code == "connection_failed"
    return error.value


def test_a_dead_server_is_named(dead_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    assert f"no connection to http://127.0.0.1:{dead_port}: " in failure(f"http://127.0.0.1:{dead_port}").detail


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_named_without_its_password(
    scheme: str, dead_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
        monkeypatch.setenv(name, f"http://ann:secret@127.0.0.1:{dead_port}")
    detail = failure(f"{scheme}://domain.example").detail
    assert f"through the proxy http://127.0.0.1:{dead_port} of HTTP_PROXY" in detail
    assert "secret" not in detail
    assert "Is the Domain running" not in detail


def test_the_address_of_a_proxy_is_shown_without_credentials() -> None:
    assert without_credentials("http://a:b@proxy:3128") == "http://proxy:3128"
    assert without_credentials("https://proxy") == "https://proxy"


def test_an_unknown_authority_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "server.pem"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=greet, args=(server, context))
        answering.start()
        detail = failure(f"https://127.0.0.1:{server.getsockname()[1]}").detail
        answering.join()
    assert "--ca-file, PYGRID_CA_FILE or SSL_CERT_FILE" in detail
    assert "Is the Domain running" not in detail


def test_a_server_without_tls_is_told_apart_from_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer_in_plain_text, args=(server,))
        answering.start()
        detail = failure(f"https://127.0.0.1:{server.getsockname()[1]}").detail
        answering.join()
    assert "Try http:// instead of https://" in detail
    assert "Is the Domain running" not in detail


def answer_in_plain_text(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def greet(server: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = server.accept()
    try:
        context.wrap_socket(connection, server_side=True).close()
    except OSError:
        connection.close()


def self_signed(path: Path) -> Path:
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
