"""Reads HTTP/1.1 from connections, with bounds on everything that a client can send or leave unread.

uvicorn's reader parses all bytes that arrive and queues every request in them. This one cuts the bytes at the end of
each request head and body, and parses nothing behind a request that is still being answered.

    HEAD ──head complete──> TURN ──its turn──> BODY ──body complete──> ANSWER ──answered──> HEAD ...
      │                                         │ └──answered before──> BODY, for a small rest of it, else ENDING
      └──────────refused────────────────────────┴──> ENDING: answer sent, the rest is dropped, then the end
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pygrid.web.connections import CLOSED, LONG_READ_BYTES, READ_BYTES, Connections, ConnectionSlot, num_unread
from pygrid.web.flow import HeldFlow
from pygrid.web.http_heads import find_body_length, refused_by
from pygrid.web.refusals import Refused, connection_refusal, refusal
from pygrid.web.requests import WAITS
from pygrid.web.sized_reads import SizedReads

_END_OF_HEAD = b"\r\n\r\n"
_FIRST_PIECE = 4 * 1024
_CHUNKED_PIECE = 64 * 1024
"""A chunked body is parsed and checked in pieces of these sizes; the long size is for long chunks."""
_FRAMING_SHARE = 8
_REQUEST_BYTES = 24 * 1024
"""Memory of the server and the app for a request whose body is not complete."""


class Phase(enum.Enum):
    """What the reader expects next."""

    HEAD = "head"
    TURN = "turn"
    """The head is complete. It is parsed when its address may begin a request."""
    BODY = "body"
    ANSWER = "answer"
    ENDING = "ending"


class _Behind(Exception):
    """Raised inside a callback of the parser: a further request begins in a piece that ended a chunked body."""


class BoundedProtocol(HttpToolsProtocol):
    """The reader of one connection.

    An invalid request is answered with a problem document, before any app sees it.

    Args:
        connections: the connections of the server, with their limits.
    """

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = connections.limits
        self.num_drained = 0
        self._connections = connections
        self._place: ConnectionSlot | None = None
        self._holder: str | None = None
        self._phase = Phase.HEAD
        self._has_turn = False
        self._waiting = b""
        """Read, but not parsed: the rest of the message, or requests behind the one that is being answered."""
        self._is_last = False
        """The connection ends after the current answer."""
        self._tail = b""
        """Last bytes of an incomplete head."""
        self._num_head_bytes = 0
        self._left: int | None = 0
        """Missing bytes of the body; None: it is chunked."""
        self._is_long = False
        """Whether a length was announced that no app keeps."""
        self._num_framing_bytes = 0
        self._num_body_bytes = 0
        self._num_dropped = 0
        """Bytes that arrived after the answer."""
        self._timer: asyncio.TimerHandle | None = None
        self.reads: SizedReads | None = None
        """What reads for it; None: the transport calls it."""

    @classmethod
    def with_sized_reads(cls, *args: Any, connections: Connections, **kwargs: Any) -> SizedReads:
        """Return the protocol of a socket with such a reader."""
        reader = cls(*args, connections=connections, **kwargs)
        reader.reads = SizedReads(reader, connections)
        return reader.reads

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._flow = HeldFlow(transport, self._on_taken)
        place = self._admit()
        if isinstance(place, ConnectionSlot):
            self._place, self._holder = place, place.holder
            if self.reads is not None:
                self.reads.holder = place.holder
            self._start_timer(self.limits.head_s, self._on_head_timeout)
        else:
            self._refuse_connection(place)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._waiting = b""
        if self._place is not None:
            self._connections.release(self._place)
        else:
            self._connections.forget_refused(self)
        super().connection_lost(exc)
        if self.cycle is not None:
            self.cycle.transport = CLOSED
        self._let_go()

    def _let_go(self) -> None:
        """Drop references: objects in cycles are freed late, and closed connections would stay in memory."""
        self._place = None
        self.parser = self.cycle = self.scope = None  # type: ignore[assignment]
        self.transport = CLOSED
        self._flow.let_go(CLOSED)
        self.reads = None

    def _admit(self) -> ConnectionSlot | str:
        return self._connections.admit(self, self.client[0] if self.client else None)

    def cut_off(self) -> None:
        """End the connection, because what it holds is needed for others."""
        self._stop_timer()
        self.transport.abort()

    def num_held_bytes(self) -> int:
        """Return the unread bytes of answers, plus the received bytes of the unanswered request."""
        num_bytes = self.transport.get_write_buffer_size() + len(self._waiting)
        if self._phase in (Phase.HEAD, Phase.TURN):
            return num_bytes + 2 * self._num_head_bytes  # as bytes and as fields
        if self._phase is Phase.ENDING or self.cycle.response_complete:
            return num_bytes
        # The app keeps nothing of a long body: it streams or refuses it.
        is_kept = not self._is_long and self._num_body_bytes <= self.limits.unread_body_bytes
        num_bytes += self._num_body_bytes if is_kept else len(self.cycle.body)
        return num_bytes + _REQUEST_BYTES if self._phase is Phase.BODY else num_bytes

    def max_read_bytes(self) -> int:
        """Return how many bytes may be read at once: heads are short."""
        if self._phase is not Phase.BODY:
            return self.limits.head_bytes
        return LONG_READ_BYTES if self._is_long else READ_BYTES

    def _note_progress(self) -> None:
        if self._place is not None:
            self._connections.note_progress(self._place)

    def _on_taken(self) -> None:
        if self._place is not None and self._place.num_held:
            self._connections.note_progress(self._place)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._note_progress()

    def resume_writing(self) -> None:
        self.num_drained += 1
        super().resume_writing()

    # Reading

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._phase is Phase.ENDING:
            self._drop(len(data))
            return
        self._waiting = self._waiting + data if self._waiting else data
        self._parse()

    def view_received(self, view: memoryview) -> None:
        """`data_received`, without a copy of a piece of a body."""
        if self._phase is not Phase.BODY or self._waiting or self._left is None or self._left < len(view):
            self.data_received(bytes(view))
        elif not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._left -= len(view)
            if self._feed(view) and self._may_read_on():
                self._hold_or_release()

    def _parse(self) -> None:
        """Parse the waiting bytes, up to the end of the first request that must be answered."""
        while self._waiting and not self.transport.is_closing():
            if self._phase is Phase.HEAD:
                is_open = self._parse_head()
            elif self._phase is Phase.BODY:
                is_open = self._parse_body()
            elif self._phase is Phase.ANSWER:
                break
            else:
                return
            if not is_open:
                return
        self._hold_or_release()

    def _parse_head(self) -> bool:
        if self._timer is None:
            self._start_timer(self.limits.head_s, self._on_head_timeout)
        joined = self._tail + self._waiting
        end = joined.find(_END_OF_HEAD)
        length = len(self._waiting) if end < 0 else end + len(_END_OF_HEAD) - len(self._tail)
        if self._num_head_bytes + length > self.limits.head_bytes:
            detail = f"the address and the headers may have at most {self.limits.head_bytes} bytes"
            self._refuse(431, "headers_too_large", detail)
            return False
        if end >= 0 and not self._take_turn():
            return False
        self._tail = joined[-3:] if end < 0 else b""
        piece, self._waiting = self._waiting[:length], self._waiting[length:]
        self._num_head_bytes += length
        is_open = self._feed(piece)
        if end < 0:
            self._note_progress()
        return is_open

    def _take_turn(self) -> bool:
        """Return whether the request of the complete head may begin now. If not, nothing is read until it may."""
        if self._has_turn or self._place is None or self._holder is None:
            return True
        if self._connections.turns.take(self._holder, self._on_turn, self):
            self._has_turn = True
            return True
        self._stop_timer()
        self._phase = Phase.TURN
        self._connections.mark_busy(self._place)
        self.flow.pause_reading()
        self._note_progress()
        return False

    def _on_turn(self) -> None:
        if self._phase is not Phase.TURN or self.transport.is_closing():
            self._end_turn()
            return
        self._has_turn = True
        self._phase = Phase.HEAD
        self.flow.resume_reading()
        self._parse_next()

    def _end_turn(self) -> None:
        self._has_turn = False
        if self._holder is not None:
            self._connections.turns.end(self._holder, self)

    def _parse_body(self) -> bool:
        chunked_piece = _CHUNKED_PIECE if self._num_body_bytes > 16 * self._num_framing_bytes else _FIRST_PIECE
        length = chunked_piece if self._left is None else self._left
        piece, self._waiting = self._waiting[:length], self._waiting[length:]
        if self._left is not None:
            self._left -= len(piece)
            return self._feed(piece) and self._may_read_on()
        num_before = self._num_body_bytes
        if not self._feed(piece):
            return False
        self._num_framing_bytes += len(piece) - (self._num_body_bytes - num_before)
        if self._phase is Phase.BODY:
            most = self.limits.framing_bytes + self._num_body_bytes // _FRAMING_SHARE
            if self._num_framing_bytes > most:
                detail = "the chunk sizes, extensions and trailers are too long for the body"
                self._refuse(400, "chunks_too_small", detail)
                return False
        return self._may_read_on()

    def _feed(self, piece: bytes | memoryview) -> bool:
        """Pass a piece to the parser. False: nothing more may be parsed."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return False
            self._is_last = True
            self.cycle.keep_alive = False
            self._waiting = b""
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _Behind):
                self._is_last = True
                self.cycle.keep_alive = False
                self._waiting = b""
                return True
            self._refuse(*refused_by(error).answer)
            return False
        return True

    def _hold_or_release(self) -> None:
        """Stop reading while the waiting requests are longer than a head, or will not be parsed.

        The bytes that were read stay: a client that has the whole answer can send a long request before the app has
        finished the last one.
        """
        if self._is_last:
            self._waiting = b""
        elif len(self._waiting) <= self.limits.head_bytes:
            if self._flow.is_held:
                self._flow.is_held = False
                if self._phase is not Phase.BODY or len(self.cycle.body) <= HIGH_WATER_LIMIT:
                    self._flow.resume_reading()
            return
        self._flow.pause_reading()
        self._flow.is_held = True

    def _may_read_on(self) -> bool:
        """Return whether the rest of a body is still read, after its request was answered."""
        self._note_progress()
        if self._phase is not Phase.BODY:
            return True
        if self.cycle.response_complete and self._num_dropped > self.limits.unread_body_bytes:
            self._end()
            return False
        if self.cycle.body and self._connections.must_pause(self._holder):
            self.flow.pause_reading()  # until the app asks for more
        return True

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if self._phase is not Phase.HEAD:
            raise _Behind
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not Phase.HEAD:
            return  # trailers are counted, but no app sees them
        if len(self.headers) >= self.limits.max_headers:
            raise Refused(431, "headers_too_large", f"a request may have at most {self.limits.max_headers} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._left = find_body_length(
            self.headers,
            method=self.parser.get_method(),
            version=self.parser.get_http_version(),
            should_upgrade=self.parser.should_upgrade(),
            is_websocket=self._is_websocket(),
        )
        self._is_long = self._left is not None and self._left > self.limits.unread_body_bytes
        self._phase = Phase.BODY
        self._num_head_bytes = self._num_framing_bytes = self._num_body_bytes = self._num_dropped = 0
        if self._place is not None:
            self._connections.mark_busy(self._place)
        self.scope["state"][WAITS] = self._end_turn
        super().on_headers_complete()
        if getattr(self.server_state, "is_draining", False):
            self.end_after_answer()

    def _is_websocket(self) -> bool:
        return bool(self.parser.should_upgrade() and self._should_upgrade())

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        cycle: Any = self.cycle
        if cycle.response_complete:
            self._num_dropped += len(body)
            return
        # `receive` returns bytes without a copy, and a bytearray grows without one.
        if not cycle.body:
            cycle.body = body
        elif isinstance(cycle.body, bytes):
            cycle.body = bytearray(cycle.body) + body
        else:
            cycle.body += body
        if self._left != 0 and len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._is_websocket():
            return
        if self.cycle.response_complete:
            self._begin_next()
        else:
            self._phase = Phase.ANSWER

    # Answers

    def on_response_complete(self) -> None:
        """Called by the cycle after a whole answer was written."""
        super().on_response_complete()
        self._end_turn()
        self.num_drained += 1
        self._note_progress()
        if self.transport.is_closing() or self._phase is Phase.ENDING:
            return
        if self._phase is Phase.ANSWER:
            self._begin_next()
            if self._waiting:
                self.loop.call_soon(self._parse_next)
        elif self._left is not None and self._left > self.limits.unread_body_bytes:
            self._end()
        else:
            self._start_timer(self.limits.linger_s, self._end)

    def _begin_next(self) -> None:
        self._stop_timer()
        self._phase = Phase.HEAD
        if self._place is not None:
            self._connections.mark_idle(self._place)

    def _parse_next(self) -> None:
        if self._phase is Phase.HEAD and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._parse()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        self._end_turn()
        self.connections.discard(self)
        lines = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.scope["headers"]:
            lines += [name, b": ", value, b"\r\n"]
        lines.append(b"\r\n")
        assert self.ws_protocol_class is not None
        protocol: Any = self.ws_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        protocol.client = self.client
        if self.reads is not None:
            self.reads.reader = protocol
        else:
            self.transport.set_protocol(protocol)
        rest, self._waiting = self._waiting, b""
        protocol.begin(self._connections, self._place, b"".join(lines))
        self._let_go()
        if rest:
            protocol.data_received(rest)

    # Ends

    def end_after_answer(self) -> None:
        """Add ``Connection: close`` to the answer to the newest request, if the answer has not begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Called when the server closes its connections: one with unread bytes is answered first."""
        if not self._waiting and not num_unread(self.transport):
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser did not accept."""
        self._refuse(400, "invalid_http", msg)

    def _start_timer(self, seconds: float, then: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(408, "too_slow", f"the headers took more than {self.limits.head_s:g} s")

    def _refuse_connection(self, code: str) -> None:
        self._phase = Phase.ENDING
        self.transport.write(connection_refusal(code, self.limits))
        end = self._end if self._connections.note_refused(self) else self.transport.close
        end()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer in place of the app, and end the connection. An answer that the app has begun is cut off."""
        self._end_turn()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and self._phase is not Phase.HEAD:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        self.transport.write(refusal(status, code, detail))
        self._end()

    def _end(self) -> None:
        """Send the written bytes, drop arriving bytes for a short time, then close.

        Closing at once would make the kernel send a reset, which can discard the answer before the client has read it.
        """
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self._phase = Phase.ENDING
        self._waiting = b""
        self._num_dropped = 0
        self._flow.is_held = False
        self._flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(self.limits.linger_s, self._close)

    def _drop(self, num_bytes: int) -> None:
        self._num_dropped += num_bytes
        if self._num_dropped > self.limits.linger_bytes:
            self._close()

    def _close(self) -> None:
        self._stop_timer()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()
