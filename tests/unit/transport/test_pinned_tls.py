"""TLS over any stream: what a pool of connections asks of it, and what it keeps from mixing up.

Should happen: an idle stream whose peer has sent something or gone says so; what was found by looking is read all the
same. Should not: a stream that a call is using is taken for a dead one, or gives bytes to who only looks.
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from httpcore._backends.sync import SyncStream

from pygrid.errors import IdentityChanged, InvalidInput
from pygrid.transport.certificates import client_context, make_certificate, read_certificate, server_context
from pygrid.transport.identity import Identity, IdentityKey
from pygrid.transport.pinned_tls import PinnedStream


class Peer:
    """The other end of a stream, with an identity."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity.load_or_make(folder / "identity.pem")
        self._context = server_context(self.identity, folder / "identity.pem")
        self._ours, theirs = socket.socketpair()
        self.stream = SyncStream(theirs)
        self.tls: ssl.SSLSocket
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        self.tls = self._context.wrap_socket(self._ours, server_side=True, do_handshake_on_connect=False)
        try:
            self.tls.do_handshake()
        except (ssl.SSLError, OSError):
            self.tls.close()

    def ready(self) -> ssl.SSLSocket:
        self._accepting.join()
        self.tls.settimeout(10)
        return self.tls

    def close(self) -> None:
        self._accepting.join()
        self.tls.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def stream(peer: Peer) -> Iterator[PinnedStream]:
    seen: list[IdentityKey] = []
    opened = PinnedStream(peer.stream, client_context(), seen.append, 10)
    assert seen == [peer.identity.key]
    peer.ready()
    yield opened
    opened.close()


def has_news(stream: PinnedStream) -> bool:
    return bool(stream.get_extra_info("is_readable"))


def test_bytes_pass_both_ways(stream: PinnedStream, peer: Peer) -> None:
    data = bytes(range(256)) * 4000
    sending = threading.Thread(target=stream.write, args=(data, 10))
    sending.start()
    received = bytearray()
    while len(received) < len(data):
        received += peer.tls.recv(65536)
    sending.join()
    assert received == data
    sending = threading.Thread(target=peer.tls.sendall, args=(data,))
    sending.start()
    received.clear()
    while len(received) < len(data):
        received += stream.read(100_000, 10)
    sending.join()
    assert received == data


def test_what_was_found_by_looking_is_not_lost(stream: PinnedStream, peer: Peer) -> None:
    assert not has_news(stream)
    peer.tls.sendall(b"unasked")
    assert has_news(stream)
    assert has_news(stream)
    assert stream.read(1, 10) + stream.read(100, 10) == b"unasked"
    assert not has_news(stream)


def test_a_stream_that_waits_for_an_answer_is_not_idle(stream: PinnedStream, peer: Peer) -> None:
    """A pool that was told a moment ago that it is idle must not take the answer for the news that ends it."""
    stream.write(b"question", 10)
    assert peer.tls.recv(100) == b"question"
    peer.tls.sendall(b"answer")
    assert not has_news(stream)
    assert stream.read(100, 10) == b"answer"
    assert not has_news(stream)


def test_nobody_looks_while_another_reads(stream: PinnedStream, peer: Peer) -> None:
    answers: list[bytes] = []
    reading = threading.Thread(target=lambda: answers.append(stream.read(100, 10)))
    reading.start()
    for _ in range(1000):
        assert not has_news(stream)
    peer.tls.sendall(b"answer")
    reading.join()
    assert answers == [b"answer"]


def test_a_peer_that_went_is_noticed(stream: PinnedStream, peer: Peer) -> None:
    peer.tls.close()
    assert has_news(stream)
    with pytest.raises(httpcore.ReadError, match="ended in the middle"):
        stream.read(1, 10)


def test_a_peer_that_said_goodbye_has_ended_the_stream(stream: PinnedStream, peer: Peer) -> None:
    peer.tls.settimeout(0.1)
    with pytest.raises(TimeoutError):
        peer.tls.unwrap()  # waits for a goodbye that does not come
    assert has_news(stream)
    assert stream.read(100, 10) == b""


def test_silence_ends_in_time(stream: PinnedStream) -> None:
    with pytest.raises(httpcore.ReadTimeout):
        stream.read(1, 0.05)


def test_who_is_not_wanted_is_sent_nothing(peer: Peer) -> None:
    def check(seen: IdentityKey) -> None:
        raise IdentityChanged("another")

    with pytest.raises(IdentityChanged):
        PinnedStream(peer.stream, client_context(), check, 10)
    assert peer.ready().recv(100) == b""  # at once the end


def test_a_peer_that_speaks_no_tls_is_told(peer: Peer) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(httpcore.ConnectError, match="TLS handshake failed"):
            PinnedStream(SyncStream(theirs), client_context(), print, 10)
    peer.stream.close()


def test_a_certificate_of_another_kind_is_nobodys(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "domain")])
    begin, end = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    )
    certificate = builder.not_valid_before(begin).not_valid_after(end).sign(key, hashes.SHA256())
    file = tmp_path / "both.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(file)
    ours, theirs = socket.socketpair()
    accepting = threading.Thread(target=lambda: other.wrap_socket(ours, server_side=True).close())
    accepting.start()
    with pytest.raises(IdentityChanged) as refused:
        PinnedStream(SyncStream(theirs), client_context(), print, 10)
    accepting.join()
    assert refused.value.code == "wrong_identity"


def test_a_certificate_names_its_identity() -> None:
    identity = Identity.make()
    der = ssl.PEM_cert_to_DER_cert(make_certificate(identity).decode())
    assert read_certificate(der) == identity.key


@pytest.mark.parametrize("der", [b"", b"nonsense", bytes(1000)])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_certificate(der)
    assert refused.value.code == "invalid_certificate"
