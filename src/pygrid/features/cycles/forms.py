"""The members of a JSON report of a client of 2020."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pygrid import codes
from pygrid.errors import Unauthenticated
from pygrid.messages.decoding import read_struct


class PublishedReport(msgspec.Struct):
    worker_id: str
    request_key: str
    diff: str


def missing_key() -> Unauthenticated:
    """The error for a request without a key."""
    return Unauthenticated(
        "Missing request key! Send 'Authorization: Bearer REQUEST_KEY'.", code=codes.MISSING_REQUEST_KEY
    )


def read_members(members: Mapping[str, Any]) -> PublishedReport:
    """Return the members of a report.

    Raises:
        InvalidInput: ``missing_field``, or one is not a text. Unauthenticated: ``missing_request_key``.
    """
    if members.get("request_key") in (None, ""):
        raise Unauthenticated("the report has no 'request_key'", code=codes.MISSING_REQUEST_KEY, field="request_key")
    return read_struct(members, PublishedReport)
