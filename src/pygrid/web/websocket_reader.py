"""Reads WebSocket frames from connections, with bounds that uvicorn's reader lacks."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request

from pygrid.web.connections import CLOSED, ConnectionLimits, Connections, ConnectionSlot
from pygrid.web.streamed_messages import (
    CONTINUATION,
    STREAMED,
    STREAMED_BYTES,
    TEXT,
    BeginsStream,
    FrameHead,
    StreamedMessage,
    peek,
    read_head,
)

_READ_BYTES = 64 * 1024
_LONG_HEAD_BYTES, _HEAD_COPIES = 4096, 5
"""The headers of a WebSocket stay in memory, in several forms. Those of browsers are shorter, and not counted."""
_SOCKET_BYTES, _SHORT_BYTES = 20 * 1024, 4096
"""Memory of the server and the app for an open WebSocket. It counts while a longer part of a message is kept."""
_PIECE = 2048
"""Frames whose borders are unknown are parsed in pieces of this size: at most 1,024 of them at once."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """The reader of one WebSocket.

    At most one piece with messages waits for the app, the number of fragments of a message is bounded, and a peer that
    reads nothing receives no pongs. In each round of `Turns`, at most `ConnectionLimits.frames_per_turn` frames of an
    address are parsed. A long text message that the app takes in parts is passed on while it arrives, as several events
    ``websocket.receive`` with ``more_body``.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_drained = 0
        self._limits = limits
        self._connections: Connections | None = None
        self._place: ConnectionSlot | None = None
        self._num_head_bytes = 0
        self._waiting = b""
        self._at = 0
        """Start of the unparsed part of ``_waiting``."""
        self._is_over = False
        """The connection was cut off: what arrives is dropped."""
        self._refused_at: Connections | None = None
        """The connections that count this one as cut off."""
        self._ending: asyncio.TimerHandle | None = None
        """Ends the connection after it was cut off."""
        self._is_pumping = False
        """A call of `_pump` is due."""
        self._queued: deque[int] = deque()
        """Size of each message that waits for the app."""
        self._num_taken = 0
        """Size of the message that the app received last."""
        self._left = 0
        """Unparsed bytes of the current frame, if it goes to the WebSocket library; 0: a frame begins."""
        self._num_begun = 0
        """Length of the fragments of the current message."""
        self._is_whole = False
        """The app takes the current message as a whole, although it is long."""
        self._streamed: StreamedMessage | None = None

    def begin(self, connections: Connections, place: ConnectionSlot | None, head: bytes) -> None:
        """Take over the slot of the connection until it is closed, and parse the head of the request.

        The head is parsed alone, so that the first frame begins where the waiting bytes do.
        """
        if place is not None:
            place.owner = self
            self._connections, self._place = connections, place
        self._num_head_bytes = _HEAD_COPIES * len(head) if len(head) > _LONG_HEAD_BYTES else 0
        self._parse(head)
        self._note_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        # Objects in reference cycles are freed late, so they must not hold anything large.
        self._waiting = b""
        self.frames = []
        self.conn.reader.buffer.clear()
        self.conn.parser.close()  # keeps the last frame
        if self._connections is not None and self._place is not None:
            self._connections.release(self._place)
        if self._refused_at is not None:
            self._refused_at.forget_refused(self)
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)
        self._place = None
        self.transport = CLOSED

    def resume_writing(self) -> None:
        self.num_drained += 1
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._waiting = self._waiting[self._at :] + data if self._at < len(self._waiting) else data
        self._at = 0
        if not self._is_pumping and self._take_turn():
            self._pump()
        self._note_progress()

    def view_received(self, view: memoryview) -> None:
        self.data_received(bytes(view))

    def max_read_bytes(self) -> int:
        """Return how many bytes may be read at once."""
        return _READ_BYTES

    def num_held_bytes(self) -> int:
        """Return the unread bytes of answers, plus the received bytes of messages that the app has not finished, of a
        long head, and the memory of a socket whose message is kept whole.
        """
        num_begun = len(self._waiting) - self._at + len(self.conn.reader.buffer) + sum(map(len, self.frames))
        num_bytes = num_begun + self._num_taken + sum(self._queued) + self._num_head_bytes
        if num_begun > _SHORT_BYTES and self._streamed is None:
            num_bytes += _SOCKET_BYTES
        return num_bytes + self.transport.get_write_buffer_size()

    def cut_off(self) -> None:
        """Tell the peer that its unfinished message has no more memory, and end the connection.

        A peer that has not read earlier answers would not read this either, so its connection is aborted.
        """
        connections, self._connections, self._place = self._connections, None, None
        can_read = self.handshake_complete and not self.close_sent and not self.transport.get_write_buffer_size()
        if not can_read or connections is None or not connections.note_refused(self):
            self.transport.abort()
            return
        self._is_over, self._refused_at = True, connections
        self._waiting, self._at, self.frames = b"", 0, []
        self.conn.reader.buffer.clear()
        close = Close(CloseCode.TRY_AGAIN_LATER, "the server has no memory for this message; try again later")
        self.transport.write(Frame(Opcode.CLOSE, close.serialize()).serialize(mask=False))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.TRY_AGAIN_LATER})
        # What still arrives is dropped for a moment: an end at once would reset the connection, and the peer could not
        # read the reason.
        self.transport.resume_reading()
        self._ending = self.loop.call_later(self._limits.linger_s, self._end)

    def _end(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def _note_progress(self) -> None:
        if self._connections is not None and self._place is not None:
            self._connections.note_progress(self._place)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._note_progress()

    async def receive(self) -> Any:
        if self._num_taken:
            self._num_taken = 0  # the app requests the next message, so it has finished the last one
            self._note_progress()
        if self.handshake_complete and self.queue.empty():
            self._go_on()  # with frames that came before the handshake was answered
        message = await self.queue.get()
        if message["type"] == "websocket.receive":
            self._num_taken = self._queued.popleft()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._go_on()
        return message

    def _go_on(self) -> None:
        """Parse the bytes that were read, or read on. uvicorn would only read on, and the bytes would pile up."""
        if self._is_pumping or self.transport.is_closing():
            return
        if self._at == len(self._waiting):
            self.transport.resume_reading()
        elif self._take_turn():
            self._is_pumping = True
            self.loop.call_soon(self._pump)

    def _take_turn(self) -> bool:
        """Return whether frames may be parsed now. If not, nothing is read until they may; then `_pump` is called."""
        if self._connections is None or self._place is None or self._place.holder is None:
            return True
        if self._connections.turns.take(f"messages of {self._place.holder}", self._pump):
            return True
        self._is_pumping = True
        self.transport.pause_reading()
        return False

    def _pump(self) -> None:
        """Parse the waiting bytes until the app has a message, or other connections are due."""
        self._is_pumping = False
        num_frames = 0
        while self._at < len(self._waiting) and not self.transport.is_closing():
            if self.read_paused or not self.handshake_complete:
                self.transport.pause_reading()  # until the app receives the message: `receive`
                return
            if num_frames >= self._limits.frames_per_turn:
                self.transport.pause_reading()
                self._go_on()
                return
            found = self._parse_piece()
            if found is None:
                break
            num_frames += found
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parse_piece(self) -> int | None:
        """Parse one piece, and return the number of its frames; None: the next frame needs more bytes."""
        size = _PIECE
        if (begins_stream := self._begins_stream()) is not None:
            if self._streamed is not None and self._streamed.left:
                return self._pass_on(self._streamed)
            if not self._left:
                head = read_head(self._waiting, self._at)
                if head is None or (streams := self._streams(head, begins_stream)) is None:
                    return None
                if streams:
                    return self._begin_frame(head)
                self._left = head.num_bytes + head.length
            size = self._left
            self._left -= min(size, len(self._waiting) - self._at)
        piece = self._waiting[self._at : self._at + size]
        self._at += len(piece)
        return self._parse(piece)

    def _parse(self, piece: bytes) -> int:
        """Pass a piece to the WebSocket library, and return the number of its frames."""
        self.conn.receive_data(piece)
        num_frames = len(self.conn.events)
        if self.conn.handshake_exc is not None or (self.conn.parser_exc is not None and self.conn.close_sent is None):
            self._refuse_handshake()
        elif self.conn.parser_exc is not None:
            self.handle_parser_exception()
        else:
            self.handle_events()
        return num_frames

    def _begins_stream(self) -> BeginsStream | None:
        return cast("BeginsStream | None", self.scope.get(STREAMED))

    def _streams(self, head: FrameHead, begins_stream: BeginsStream) -> bool | None:
        """Return whether a frame is part of a message that is passed on in parts; None: more bytes decide."""
        if not head.is_data or self._streamed is not None:
            return head.is_data
        is_first = head.opcode != CONTINUATION
        if is_first:
            self._num_begun, self._is_whole = 0, head.opcode != TEXT
        self._num_begun += head.length
        if self._num_begun > STREAMED_BYTES and not self._is_whole:
            # A continuation without a beginning, or a message within another one, is for the library to refuse.
            is_valid = is_first == (self.conn.current_size is None)
            start = peek(self._waiting, self._at, head, b"" if is_first else b"".join(self.frames))
            if is_valid and start is None:
                self._num_begun -= head.length
                return None
            self._is_whole = not is_valid or start is None or not begins_stream(start)
            return not self._is_whole
        return False

    def _begin_frame(self, head: FrameHead) -> int:
        """Begin a frame of a message that is passed on in parts, and return the number of frames."""
        if self._streamed is None:
            self._streamed = StreamedMessage(head)
            if self.frames:
                self._put_part(b"".join(self.frames), is_last=False)
                self.frames = []
        elif head.opcode != CONTINUATION:
            self._fail(CloseCode.PROTOCOL_ERROR, "expected a continuation frame")
            return 1
        self._streamed.begin(head)
        self._at += head.num_bytes
        if self._streamed.num_frames > self._limits.max_fragments * (1 + self._streamed.num_bytes // 2**20):
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"at most {self._limits.max_fragments} fragments for each megabyte")
            return 1
        return self._pass_on(self._streamed)

    def _pass_on(self, message: StreamedMessage) -> int:
        """Pass on what has arrived of the current frame; it counts as a frame."""
        piece = self._waiting[self._at : self._at + message.left]
        self._at += len(piece)
        data = message.take(piece)
        if data or message.is_over:
            self._put_part(data, is_last=message.is_over)
        if message.is_over:
            self._streamed, self._num_begun, self.conn.current_size = None, 0, None
        return 1

    def _put_part(self, data: bytes, *, is_last: bool) -> None:
        if self.close_sent:
            return
        self._queued.append(len(data))
        event: Any = {"type": "websocket.receive", "bytes": data, "more_body": not is_last}
        self.queue.put_nowait(event)
        self.read_paused = True
        self.transport.pause_reading()

    def _refuse_handshake(self) -> None:
        """End a connection whose request `pygrid.web.http_reader` accepted, and the WebSocket library did not."""
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        path = event.path.partition("?")[0]
        self.conn.max_message_size = self._limits.large_messages.get(path, self.conn.max_message_size)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= self._limits.max_fragments:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message may have at most {self._limits.max_fragments} fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        output = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(output)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "a text message must be UTF-8")
                return
        if not self.close_sent:
            self._queued.append(sum(map(len, self.frames)))
        super().send_receive_event_to_app()
