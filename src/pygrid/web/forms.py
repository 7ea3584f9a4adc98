"""Multipart forms, read as they arrive: small parts go into memory, large ones to a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from pygrid.core.idempotency import BodyHash, current_call
from pygrid.errors import InvalidInput, PayloadTooLarge
from pygrid.messages.decoding import invalid_form

FormEvent: TypeAlias = MultipartSegment | bytearray | None
"""The head of a part, a piece of its content, or its end."""
_TAKE_BYTES = 1024**2
"""Approximate size of the pieces of a large part."""


@dataclass(frozen=True)
class PartTarget:
    """Where the content of a part goes."""

    max_bytes: int
    take: Callable[[bytearray], object] | None = None
    """Called with each piece in a thread; None: the part is kept in memory."""


Begin: TypeAlias = Callable[[str, Mapping[str, bytes]], PartTarget]
"""`(name, parts read before) -> target of the part`; raises for a part that the form does not have."""


async def read_form(
    content_type: str, body: AsyncIterator[bytes], begin: Begin, *, parts: str, max_parts: int
) -> dict[str, bytes]:
    """Return the parts of a form by name; those that were passed to `PartTarget.take` are empty.

    Args:
        content_type: of the request.
        begin: called at the head of each part.
        parts: the parts of the form in words, for the message.
    Raises:
        InvalidInput: ``invalid_form``: the body is not a form, is malformed, repeats a part, or has over ``max_parts``.
        PayloadTooLarge: a part is over its limit.
        PygridError: as ``begin`` and `PartTarget.take`.
    """
    read: dict[str, bytes] = {}
    name, place, data, size = "", PartTarget(0), bytearray(), 0
    async for event in form_events(content_type, body, parts=parts, max_parts=max_parts):
        if isinstance(event, MultipartSegment):
            name, data, size = event.name or "", bytearray(), 0
            if name in read:
                raise invalid_form(f"the form has part {name[:100]!r} twice", part=name[:100])
            place = begin(name, read)
            read[name] = b""
        elif event is None:
            if place.take is None:
                read[name] = bytes(data)
            elif data:
                await asyncio.to_thread(place.take, data)
        else:
            size += len(event)
            if size > place.max_bytes:
                raise PayloadTooLarge(
                    f"part {name[:100]!r} has more than {place.max_bytes:,} bytes", max_bytes=place.max_bytes
                )
            data += event
            if place.take is not None and len(data) >= _TAKE_BYTES:
                await asyncio.to_thread(place.take, data)
                data = bytearray()
    return read


async def form_events(
    content_type: str, body: AsyncIterator[bytes], *, parts: str, max_parts: int
) -> AsyncIterator[FormEvent]:
    """Yield the parts of a form in order: of each its head, its pieces, and None.

    Args:
        content_type: of the request.
        parts: the parts of the form in words, for the message.
    Raises:
        InvalidInput: ``invalid_form``: the body is not a form, is malformed, or has more than ``max_parts``.
    """
    call = current_call.get()
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise invalid_form(f"send a multipart/form-data form with {parts}")
    try:
        with PushMultipartParser(boundary, max_segment_count=max_parts) as parser:
            async for piece in body:
                for event in parser.parse(piece):
                    if call is not None:
                        _hash(call.body, event)
                    yield event
    except MultipartError as error:
        raise invalid_form(f"the form is malformed: {error}") from error


def is_multipart(content_type: str) -> bool:
    """Return whether the body is a multipart form."""
    return content_type.strip().lower().startswith("multipart/")


def is_text_form(content_type: str) -> bool:
    """Return whether the body is an ordinary form, not a multipart one."""
    return content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded"


async def body_pieces(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces of a body without parts; it counts for the comparison of calls with one ``Idempotency-Key``."""
    call = current_call.get()
    if call is not None:
        call.body.begin("form")
    async for piece in body:
        if call is not None:
            call.body.update(piece)
        yield piece
    if call is not None:
        call.body.end()


def _hash(body: BodyHash, event: FormEvent) -> None:
    if isinstance(event, MultipartSegment):
        body.begin(event.name or "")
    elif event is None:
        body.end()
    else:
        body.update(event)


def unknown_part(name: str, wanted: str) -> InvalidInput:
    """Return the refusal of a part that the form does not have."""
    return invalid_form(f"the form has an unknown part {name[:100]!r}; it takes {wanted}", part=name[:100])
