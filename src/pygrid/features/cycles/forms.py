"""The members of a JSON report of a client of 2020."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput, Unauthenticated


class PublishedReport(msgspec.Struct):
    """A report in JSON."""

    worker_id: str
    request_key: str
    diff: str


def missing_key() -> Unauthenticated:
    """The error for a request without a key."""
    return Unauthenticated(
        "Missing request key! Send 'Authorization: Bearer REQUEST_KEY'.", code=codes.MISSING_REQUEST_KEY
    )


def read_members(members: Mapping[str, Any]) -> PublishedReport:
    """Return the members of a report. Raises InvalidInput: ``missing_field``, or one is not a text."""
    try:
        return msgspec.convert(members, PublishedReport)
    except msgspec.ValidationError as error:
        if "missing required field" in str(error):
            raise InvalidInput(f"the report is not complete: {error}", code=codes.MISSING_FIELD) from None
        raise InvalidInput(f"the report is not valid: {error}", field="diff") from None
