"""Multipart forms, read as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from pygrid.errors import InvalidInput

FormEvent: TypeAlias = MultipartSegment | bytearray | None
"""The head of a part, a piece of its content, or its end."""


async def form_events(content_type: str, body: AsyncIterator[bytes], *, parts: str, max_parts: int) -> AsyncIterator[FormEvent]:
    """The parts of the form in ``body``, in order, each as its head, its pieces, and None.

    Args:
        content_type: of the request.
        parts: which parts the form should have, in words, for the message.
    Raises:
        InvalidInput: ``invalid_form``: it is no such form, is broken, or has more than ``max_parts``.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise invalid_form(f"send a multipart/form-data form with {parts}")
    try:
        with PushMultipartParser(boundary, max_segment_count=max_parts) as parser:
            async for piece in body:
                for event in parser.parse(piece):
                    yield event
    except MultipartError as error:
        raise invalid_form(f"the form is broken: {error}") from error


def invalid_form(why: str) -> InvalidInput:
    """The refusal of a form."""
    return InvalidInput(why, code="invalid_form")
