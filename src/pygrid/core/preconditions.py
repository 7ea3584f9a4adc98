"""Preconditions of changes: a change applies only to the version that the editor has read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from pygrid.errors import PreconditionFailed


@dataclass(frozen=True)
class Precondition:
    """A precondition, checked in the transaction of the change."""

    if_match: str | None = None
    """Entity tags, separated by commas, or ``*``; None: any."""
    if_none_match: str | None = None
    """``*``: the object must not exist."""

    def check(self, current: object | None) -> None:
        """Compare with the current message, as GET returns it. None: the object does not exist.

        Raises:
            PreconditionFailed: the current version is another one.
        """
        if self.if_none_match is not None and current is not None:
            raise PreconditionFailed("the object exists already: read it, and send its ETag in If-Match to change it")
        if self.if_match is None:
            return
        tags = {tag.strip() for tag in self.if_match.split(",")}
        if current is None or ("*" not in tags and etag_of(current) not in tags):
            raise PreconditionFailed(
                "it was changed since you read it: read it again, and repeat the change if it still applies"
            )


ANY = Precondition()
"""No precondition."""


def etag_of(message: object) -> str:
    """The entity tag of a message: the hash of its JSON, in quotes."""
    return f'"{hashlib.sha256(msgspec.json.encode(message)).hexdigest()[:32]}"'
