"""Finds the borders of WebSocket frames, so that a long text message can be passed on while it arrives (RFC 6455)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from websockets.utils import apply_mask

STREAMED = "pygrid.streamed"
"""Key in the scope of a WebSocket: the `BeginsStream` of its app."""
STREAMED_BYTES = 64 * 1024
"""Shorter messages are passed on whole."""
PEEKED_BYTES = 4096
CONTINUATION, TEXT, _FIRST_CONTROL = 0, 1, 8

BeginsStream: TypeAlias = Callable[[bytes], bool]
"""`first 4 KiB of a long text message -> whether the app takes it in parts`."""


class FrameHead(NamedTuple):
    is_final: bool
    opcode: int
    """With the reserved bits, so a frame of an extension has an unknown one."""
    mask: bytes
    """Empty: the frame is not masked."""
    num_bytes: int
    """Length of the head."""
    length: int
    """Length of the content."""

    @property
    def is_data(self) -> bool:
        """Whether the frame is a masked part of a message."""
        return bool(self.mask) and self.opcode < _FIRST_CONTROL


def read_head(data: bytes, at: int) -> FrameHead | None:
    """Return the head of the frame that begins at an offset; None: it is not complete."""
    if len(data) - at < 2:
        return None
    first, second = data[at], data[at + 1]
    num_extra = {126: 2, 127: 8}.get(second & 127, 0)
    num_mask = 4 if second & 128 else 0
    end = at + 2 + num_extra + num_mask
    if len(data) < end:
        return None
    extra = data[at + 2 : at + 2 + num_extra]
    length = int.from_bytes(extra, "big") if num_extra else second & 127
    return FrameHead(bool(first & 128), first & 127, data[end - num_mask : end], end - at, length)


def peek(data: bytes, at: int, head: FrameHead, begun: bytes) -> bytes | None:
    """Return the first bytes of a message whose frame begins at an offset; None: too few of them have arrived."""
    count = max(0, min(PEEKED_BYTES - len(begun), head.length))
    start = at + head.num_bytes
    if len(data) < start + count:
        return None
    return begun[:PEEKED_BYTES] + apply_mask(data[start : start + count], head.mask)


@dataclass
class StreamedMessage:
    """A message that is passed on in parts."""

    head: FrameHead
    """The head of the current frame."""
    left: int = 0
    """Missing bytes of the frame."""
    num_frames: int = 0
    num_bytes: int = 0

    def begin(self, head: FrameHead) -> None:
        self.head, self.left = head, head.length
        self.num_frames += 1
        self.num_bytes += head.length

    def take(self, data: bytes) -> bytes:
        """Return the content in the next bytes of the frame."""
        turn = (self.head.length - self.left) % 4
        self.left -= len(data)
        return apply_mask(data, self.head.mask[turn:] + self.head.mask[:turn]) if data else b""

    @property
    def is_over(self) -> bool:
        """Whether the last byte of the message was taken."""
        return self.head.is_final and not self.left
