"""Server-Sent Events: a stream of text blocks that can be resumed after an interruption.

Source: HTML Living Standard, section 9.2 (WHATWG).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pygrid import codes
from pygrid.errors import PygridError

_MAX_LINE = 1024 * 1024
"""Characters of a line, and of the data of an event."""


@dataclass(frozen=True)
class FollowTimings:
    """Times of a client that follows a process or a job."""

    silence_s: float = 60.0
    """Time without a byte after which a stream counts as lost."""
    patience_s: float = 600.0
    """How long the Domain may not be reached."""
    poll_s: float = 0.5
    """Longest pause between two requests."""


@dataclass(frozen=True)
class ReceivedEvent:
    """One event as it was sent; ``id`` is the newest that the stream gave, also if an earlier event did.

    A comment, which servers send to show that they are there, is an event without a kind.
    """

    id: str
    kind: str
    data: str


def parse_events(chunks: Iterable[bytes]) -> Iterator[ReceivedEvent]:
    """The events of a stream, each as soon as its closing blank line arrives; an incomplete last one is dropped."""
    last_id, kind, data, num_chars = "", "", list[str](), 0
    for line in _lines(chunks):
        if not line:
            if data:
                yield ReceivedEvent(last_id, kind or "message", "\n".join(data))
            kind, data, num_chars = "", [], 0
            continue
        name, _, value = line.partition(":")
        if not name:
            yield ReceivedEvent(last_id, "", value)
            continue
        value = value.removeprefix(" ")
        if name == "data":
            num_chars += len(value) + 1
            if num_chars > _MAX_LINE:
                raise PygridError(f"an event is longer than {_MAX_LINE:,} characters", code=codes.ANSWER_TOO_LARGE)
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines ended by LF, CRLF or CR. A chunk may end anywhere, also inside a character or between CR and LF."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest, skip_lf, first = "", False, True
    for chunk in chunks:
        text = decoder.decode(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if skip_lf and text:
            text, skip_lf = text.removeprefix("\n"), False
        skip_lf = skip_lf or text.endswith("\r")
        *lines, rest = (rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if len(rest) > _MAX_LINE:
            raise PygridError(
                f"a line of the event stream is longer than {_MAX_LINE:,} characters", code=codes.ANSWER_TOO_LARGE
            )
        yield from lines
