"""TLS over any stream, to a peer with a known identity."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Any

import httpcore

from pygrid import codes
from pygrid.errors import IdentityChanged, InvalidInput
from pygrid.transport.certificates import read_certificate
from pygrid.transport.dialer import HeadClock
from pygrid.transport.identity import IdentityKey
from pygrid.transport.pipes import countdown

_READ_BYTES = 256 * 1024
_WRITE_BYTES = 256 * 1024
_GOODBYE_S = 0.5
_LOOK_S = 0.01


class PinnedStream(httpcore.NetworkStream):
    """An encrypted stream to the peer over ``stream``, which it owns.

    `read` returns exactly what the peer sent, in this order and without a gap. Other bytes from ``stream``, and an end
    that the peer did not announce, raise ``httpcore.ReadError``.

    Args:
        check: called with the peer's identity before anything is sent; raises if it is not the expected one.
        head: counts the bytes of the answer that `read` returns.
    Raises:
        httpcore.ConnectError: the handshake failed.
        IdentityChanged: the peer's certificate is not that of a Domain (``wrong_identity``).
        The errors of ``check``. After each error, the stream is closed.
    """

    def __init__(
        self,
        stream: httpcore.NetworkStream,
        context: ssl.SSLContext,
        check: Callable[[IdentityKey], None],
        timeout_s: float | None,
        head: HeadClock | None = None,
    ) -> None:
        self._stream = stream
        self._head = head or HeadClock()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._is_broken = False
        # One thread at a time reads and writes, but other threads of a pool check whether an idle stream is usable.
        self._using = threading.Lock()
        self._is_asking = False
        """Something was written and nothing of the answer was read, so the stream is not idle."""
        self._early = b""
        """Bytes that the check of an idle stream has read."""
        try:
            self._shake_hands(timeout_s)
            certificate = self._tls.getpeercert(binary_form=True)
            assert certificate is not None  # a TLS 1.3 server always shows one
            check(_identity_of(certificate))
        except BaseException:
            stream.close()
            raise

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._using:
            self._is_asking = False
            if self._early:
                piece, self._early = self._early[:max_bytes], self._early[max_bytes:]
                return piece
            data = self._read(max_bytes, timeout)
        self._head.count(len(data))
        return data

    def _read(self, max_bytes: int, timeout: float | None) -> bytes:
        parts: list[bytes] = []
        room = max_bytes
        left_s = countdown(timeout)
        while room:
            try:
                part = self._tls.read(room)  # one record at most
            except ssl.SSLWantReadError:
                self._flush(timeout)  # a key update asks for an answer
                if parts:
                    break
                self._receive(left_s())
                continue
            except ssl.SSLError as error:
                self._is_broken = True
                raise httpcore.ReadError(_explain(error)) from error
            if not part:
                break
            parts.append(part)
            room -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        self._head.reset()
        with self._using:
            self._is_asking = True
            while view:
                try:
                    num_taken = self._tls.write(view[:_WRITE_BYTES])
                except ssl.SSLError as error:
                    self._is_broken = True
                    raise httpcore.WriteError(_explain(error)) from error
                view = view[num_taken:]
                self._flush(timeout)

    def close(self) -> None:
        is_free = self._using.acquire(blocking=False)
        try:
            if is_free and not self._is_broken:
                self._say_goodbye()
        finally:
            self._stream.close()
            if is_free:
                self._using.release()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._has_news()
        return self._stream.get_extra_info(info)

    def _has_news(self) -> bool:
        """Whether the peer has sent something or the connection has ended; on an idle connection, both mean its end.

        A pool can call this while the thread that has the connection uses it, or is about to use it.
        """
        if not self._using.acquire(blocking=False):
            return False
        try:
            if self._is_asking:
                return False
            if self._early or self._tls.pending():
                return True
            if not self._stream.get_extra_info("is_readable"):
                return False
            self._early = self._read(1, _LOOK_S)
            return True
        except httpcore.ReadTimeout:
            return False  # the data belonged to the TLS layer only
        except (httpcore.NetworkError, httpcore.ProtocolError):
            return True
        finally:
            self._using.release()

    def _shake_hands(self, timeout_s: float | None) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                try:
                    self._flush(timeout_s)
                    self._receive(timeout_s)
                except (httpcore.ReadTimeout, httpcore.WriteTimeout) as error:
                    raise httpcore.ConnectTimeout(str(error)) from error
                except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                    raise httpcore.ConnectError(str(error)) from error
            except ssl.SSLError as error:
                raise httpcore.ConnectError(f"the TLS handshake failed: {_explain(error)}") from error
            else:
                break
        try:
            self._flush(timeout_s)
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            raise httpcore.ConnectError(str(error)) from error

    def _receive(self, timeout: float | None) -> None:
        data = self._stream.read(_READ_BYTES, timeout)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self, timeout: float | None) -> None:
        if self._outgoing.pending:
            self._stream.write(self._outgoing.read(), timeout)

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # the peer's own goodbye is not waited for
            self._tls.unwrap()
        with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
            self._flush(_GOODBYE_S)


def _identity_of(certificate: bytes) -> IdentityKey:
    try:
        return read_certificate(certificate)
    except InvalidInput as error:
        raise IdentityChanged(
            f"the server that answers is not a Domain: {error.detail}", code=codes.WRONG_IDENTITY
        ) from error


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "the connection ended in the middle of a message"
    return f"the bytes are not those that the other end sent ({error.reason or error})"
