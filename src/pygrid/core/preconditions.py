"""Edits of what the editor has seen: a change is made to a version that was read, or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from pygrid.errors import PreconditionFailed


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
