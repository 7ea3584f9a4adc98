"""A caller that was written from docs/reference/protocol.md alone, with sockets, TLS and a certificate parser of other
authors, and nothing of pygrid.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import ssl
import struct
from pathlib import Path
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.relay_app import RelayedApp
from support.relay_site import running_site


def exactly(connection: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        data += connection.recv(num_bytes - len(data)) or _lost()
    return data


def _lost() -> bytes:
    raise ConnectionError


def send_message(connection: socket.socket, data: bytes) -> None:
    """One binary message, masked as RFC 6455 asks of a client."""
    mask = os.urandom(4)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    assert len(data) < 65536
    connection.sendall(b"\x82" + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))


def receive_message(connection: socket.socket) -> bytes:
    first, second = exactly(connection, 2)
    assert first == 0x82, "a whole binary message"
    size = second
    if size == 126:
        size = struct.unpack("!H", exactly(connection, 2))[0]
    elif size == 127:
        size = struct.unpack("!Q", exactly(connection, 8))[0]
    return exactly(connection, size)


def open_pipe(network_url: str, name: str, token: str) -> socket.socket:
    return open_websocket(network_url, f"/relay/{quote(name, safe='')}", token)


def open_websocket(network_url: str, path: str, token: str) -> socket.socket:
    parts = urlsplit(network_url)
    connection = socket.create_connection((str(parts.hostname), parts.port or 80), timeout=10)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Authorization: Bearer {token}",
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(connection, 1)
    assert head.startswith(b"HTTP/1.1 101 ")
    accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
    assert accept in head
    return connection


def test_a_caller_written_from_the_document_is_answered(tmp_path: Path) -> None:
    with running_site(RelayedApp(), tmp_path, is_open=False) as site:
        connection = open_pipe(site.network_url, "hospital-a", "good")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    send_message(connection, outgoing.read())
                incoming.write(receive_message(connection))
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        raw = certificate.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        assert f"ed25519:{base64.b32encode(raw).decode().rstrip('=').lower()}" == str(site.identity.key)
        tls.write(b"GET /small/by-hand HTTP/1.1\r\nHost: whoever\r\n\r\n")
        send_message(connection, outgoing.read())
        answer = b""
        while b"}" not in answer:
            try:
                answer += tls.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(receive_message(connection))
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"path": "/small/by-hand"}
        connection.close()
