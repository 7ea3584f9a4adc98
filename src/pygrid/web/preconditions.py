"""Edits of a known version: ``GET`` returns an ``ETag``, and ``PUT`` with ``If-Match`` changes that version or nothing.

The header is optional: a script that sets a value regardless of the old one leaves it out. Source: RFC 9110, sections
8.8.3 and 13.1.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from litestar import Response
from litestar.params import HeaderParameter

from pygrid.core.preconditions import etag_of

T = TypeVar("T")

MAX_HEADER_CHARS = 1000
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=MAX_HEADER_CHARS,
        description="The ETag that GET returned: change this version, or nothing.",
    ),
]
IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(name="If-None-Match", pattern=r"^\s*\*\s*$", description="`*`: set it only if there is none."),
]


def tagged(answer: T, of: object | None = None) -> Response[T]:
    """Return an answer with its ``ETag``.

    Args:
        of: the message that the tag is made of; None: the answer.
    """
    return Response(answer, headers={"ETag": etag_of(answer if of is None else of)})
