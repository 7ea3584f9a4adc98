"""Edits of what the editor has seen: ``GET`` gives an ``ETag``, and ``PUT`` with ``If-Match`` changes that version or nothing.

The header is optional: a script that sets a value whatever it was leaves it out. Source: RFC 9110, sections 8.8.3 and 13.1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from litestar import Response
from litestar.params import HeaderParameter

from pygrid.errors import PreconditionFailed

T = TypeVar("T")

MAX_HEADER_CHARS = 1000
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", max_length=MAX_HEADER_CHARS, description="The ETag that GET gave: change this version, or nothing."
    ),
]
IfNoneMatch = Annotated[
    str | None,
    HeaderParameter(name="If-None-Match", pattern=r"^\s*\*\s*$", description="`*`: set it only if there is none."),
]


@dataclass(frozen=True)
class Precondition:
    """What must hold when a change is made; checked in its transaction."""

    if_match: str | None = None
    """Entity tags, separated by commas, or ``*``; None: any."""
    if_none_match: str | None = None
    """``*``: there must be none."""

    def check(self, current: object | None) -> None:
        """Compare with what there is now, the message that GET answers with; None: there is none.

        Raises:
            PreconditionFailed: it is another version.
        """
        if self.if_none_match is not None and current is not None:
            raise PreconditionFailed("there is one already: read it, and change it with its ETag in If-Match")
        if self.if_match is None:
            return
        tags = {tag.strip() for tag in self.if_match.split(",")}
        if current is None or ("*" not in tags and etag_of(current) not in tags):
            raise PreconditionFailed("it was changed since you read it: read it again, and decide on what it says now")


ANY = Precondition()
"""Nothing has to hold."""


def etag_of(message: object) -> str:
    """The entity tag of a message: a hash of all that it says, in quotes."""
    return f'"{hashlib.sha256(msgspec.json.encode(message)).hexdigest()[:32]}"'


def tagged(answer: T, of: object | None = None) -> Response[T]:
    """An answer with its ``ETag``.

    Args:
        of: the message that the tag is of; None: the answer.
    """
    return Response(answer, headers={"ETag": etag_of(answer if of is None else of)})
