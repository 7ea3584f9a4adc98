"""A Network behind https, as on the internet: TLS to the Network around the WebSocket, and TLS to the Domain within.

Should happen: caller and Domain both check the Network's certificate as any https client does; calls, large bodies and
idle
    connections work as over plain http.
Should not: a Network whose certificate nobody vouches for being talked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
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
from test_relay_calls import read

from pygrid.errors import Unavailable
from pygrid.transport import Request
from support.eventually import eventually_blocking
from support.relay_app import BLOCK, PatternBody, RelayedApp
from support.relay_site import RelaySite, running_site


def make_certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1, in one file, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "network")])
    begin, end = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    )
    builder = builder.not_valid_before(begin).not_valid_after(end)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    file = folder / "network.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return file


@contextlib.contextmanager
def tls_before(url: str, certificate: Path) -> Iterator[str]:
    """An https address whose connections are passed on to a plain one, as a web server does before a Network."""
    host, _, port = url.removeprefix("http://").partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    ready: list[int] = []
    is_ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    connections: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        connections.add(current)
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))
        finally:
            for ended in (writer, there_writer):
                ended.transport.abort()
                with contextlib.suppress(OSError):
                    await ended.wait_closed()
            connections.discard(current)

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        ready.append(server.sockets[0].getsockname()[1])
        is_ready.set()
        await stop.wait()
        server.close()
        left = list(connections)
        for connection in left:
            connection.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert is_ready.wait(60)
    try:
        yield f"https://127.0.0.1:{ready[0]}"
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RelaySite]:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running_site(RelayedApp(), tmp_path) as made, tls_before(made.network_url, certificate) as url:
        made.network_url = url  # which the Domain dials, too
        yield made


def test_calls_pass_through_tls_in_tls(site: RelaySite) -> None:
    transport = site.open()
    assert transport.url.startswith("grid+https://")
    for number in range(3):
        assert json.loads(read(transport, Request("GET", f"/small/{number}"))) == {"path": f"/small/{number}"}
    body = PatternBody(100)
    assert json.loads(read(transport, Request("POST", "/echo", body=body)))["sha256"] == body.sha256
    assert read(transport, Request("GET", "/blocks/100")) == BLOCK * 100
    assert len(site.asked) == 1
    # An idle connection that ended is noticed through both layers.
    site.loop.call_soon_threadsafe(site.relay.pipes.disconnect, "hospital-a")
    eventually_blocking(lambda: site.relay.pipes.count("hospital-a") == 0)
    eventually_blocking(lambda: all(connection.has_expired() for connection in transport._pool.connections))
    assert json.loads(read(transport, Request("POST", "/small/after"))) == {"path": "/small/after"}
    transport.close()


def test_a_network_that_nobody_vouches_for_is_not_called(site: RelaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    transport = site.open()
    with pytest.raises(Unavailable, match="certificate verify failed") as failed:
        transport.send(Request("GET", "/small/1"))
    assert failed.value.code == "connection_failed"
    assert site.asked == []
    transport.close()


def test_neither_does_a_domain_dial_it(site: RelaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = site.open()
    # The caller's trust was set up with the transport; the Domain's is when it dials.
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Unavailable) as failed:
        transport.send(Request("GET", "/small/1"))
    assert failed.value.code == "domain_unreachable"
    assert len(site.asked) == 1
    transport.close()
