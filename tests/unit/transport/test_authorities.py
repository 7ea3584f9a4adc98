"""Which certificate authorities connections trust: ``ca_file``, ``PYGRID_CA_FILE``, ``--ca-file``, ``SSL_CERT_FILE``.

Should happen: a server whose authority is named is reached, with the public ones trusted as well.
Should not happen: another server is trusted; a file that is missing or empty is passed over in silence.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

import pygrid.cli
import pygrid.cli.help
from pygrid.client import connect, connect_network
from pygrid.edge import EdgeClient
from pygrid.errors import InvalidInput, PygridError, Unavailable
from pygrid.transport import Request, Transport, open_transport
from pygrid.transport.authorities import CA_FILE_VARIABLE, trusting_context
from pygrid.transport.relayed import RelayedTransport


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    # Set first, so that it is removed at the end, whatever a command does.
    monkeypatch.setenv(CA_FILE_VARIABLE, "")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, which is its own authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(here, False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("authority") / "authority.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return file


@pytest.fixture
def url(authority: Path) -> Iterator[str]:
    """The address of a server that answers 204 over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as stream:
                    stream.recv(65536)
                    stream.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                    stream.shutdown(socket.SHUT_WR)
                    while stream.recv(65536):  # a body left unread would reset the connection before the answer is read
                        pass
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"https://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def status(transport: Transport) -> int:
    try:
        return transport.send(Request("GET", "/")).status
    finally:
        transport.close()


def test_a_named_authority_is_trusted(url: str, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="--ca-file"):
        status(open_transport(url))
    assert status(open_transport(url, ca_file=authority)) == 204
    monkeypatch.setenv(CA_FILE_VARIABLE, str(authority))
    assert status(open_transport(url)) == 204
    monkeypatch.delenv(CA_FILE_VARIABLE)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert status(open_transport(url)) == 204


def test_each_client_takes_it(url: str, authority: Path, tmp_path: Path) -> None:
    assert status(connect(url, "token", ca_file=authority).transport) == 204
    assert status(connect_network(url, "token", ca_file=str(authority)).transport) == 204
    with EdgeClient(url, "digits", cache_dir=tmp_path, ca_file=authority) as device:
        assert status(device._api.transport) == 204
    relayed = open_transport(f"grid+{url}/hospital", relay_token=lambda _url: None, ca_file=authority)
    assert isinstance(relayed, RelayedTransport)
    with pytest.raises(PygridError) as refused:  # by the server, which is no Network: its certificate was accepted
        status(relayed)
    assert "CERTIFICATE" not in refused.value.detail


def test_each_command_that_connects_takes_it(url: str, authority: Path) -> None:
    assert pygrid.cli.help.CA_FILE_VARIABLE == CA_FILE_VARIABLE
    for command in (["job", "list", "--url", url], ["login", url, "--email", "a@b", "--password-stdin"]):
        wrong = CliRunner().invoke(pygrid.cli.app, [*command, "--ca-file", "missing.pem"], input="password\n")
        assert isinstance(wrong.exception, InvalidInput)
        assert wrong.exception.code == "ca_file_invalid"
        os.environ[CA_FILE_VARIABLE] = ""
        answered = CliRunner().invoke(pygrid.cli.app, [*command, "--ca-file", str(authority)], input="password\n")
        assert isinstance(answered.exception, PygridError)  # 204 is no answer of a Domain
        assert answered.exception.code == "unexpected_answer"
        os.environ[CA_FILE_VARIABLE] = ""


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nxx\n"])
def test_a_file_without_certificates_is_named(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"file\.pem") as failed:
        trusting_context(file)
    assert failed.value.code == "ca_file_invalid"
    if content is None:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(InvalidInput, match="SSL_CERT_FILE does not exist"):
            trusting_context()


def test_plain_http_reads_no_file() -> None:
    open_transport("http://127.0.0.1:9", ca_file="missing.pem").close()
