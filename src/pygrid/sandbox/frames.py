"""The framing of messages between processes: one byte of kind, eight bytes of length (little-endian), the body."""

from __future__ import annotations

from collections.abc import Iterator

FRAME_HEADER_BYTES = 9


def frame(kind: bytes, body: bytes) -> bytes:
    return frame_header(kind, len(body)) + body


def frame_header(kind: bytes, length: int) -> bytes:
    """The bytes in front of a body of ``length`` bytes."""
    return kind + length.to_bytes(FRAME_HEADER_BYTES - 1, "little")


def parse_frame_header(header: bytes) -> tuple[bytes, int]:
    """Kind and length of the message that begins with this header."""
    return header[:1], int.from_bytes(header[1:FRAME_HEADER_BYTES], "little")


def split_frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each frame. Raises ValueError if the last one is incomplete."""
    begin = 0
    while begin < len(data):
        kind, length = parse_frame_header(data[begin : begin + FRAME_HEADER_BYTES])
        begin += FRAME_HEADER_BYTES
        if begin + length > len(data):
            raise ValueError("the last frame is incomplete")
        yield kind, data[begin : begin + length]
        begin += length
