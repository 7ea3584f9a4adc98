"""Reads the JSON report of a client of 2020 in bounded memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput, PayloadTooLarge, Unauthenticated
from pygrid.web.message_memory import HeldText

PEEK_BYTES = 4096
"""Length of the beginning of a body in which the request key is looked for."""
MAX_KEYLESS_BYTES = 1024 * 1024
"""Longest body whose key is not there: without a valid key, no more is kept in memory."""
_KEY = re.compile(rb'"request_key"\s*:\s*"([!#-\[\]-~]{1,200})"')


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


async def read_published_report(
    body: AsyncIterator[bytes], announced: int | None, find_limit: Callable[[str], Awaitable[int]], held: HeldText
) -> PublishedReport:
    """Read a report.

    Args:
        announced: length of the body; None: it is not known.
        find_limit: `request key -> longest body`; refuses a key that is not valid.
        held: counts the body while it arrives.
    Raises:
        Unauthenticated: ``missing_request_key``, or as ``find_limit``. PayloadTooLarge.
        InvalidInput: ``invalid_json``, ``missing_field``. Unavailable: ``server_busy``.
    """
    data = bytearray()
    limit = MAX_KEYLESS_BYTES
    is_known = False
    async for piece in body:
        data += piece
        if not is_known and len(data) >= PEEK_BYTES:
            if data.lstrip()[:1] != b"{":
                raise missing_key()
            is_known = True
            if found := _KEY.search(bytes(data[:PEEK_BYTES])):
                limit = await find_limit(found[1].decode())
                # Many report in one second. Only who has a key waits for memory, and reserves it.
                await held.grow_when_free(min(announced or limit, limit))
        held.grow(len(data))
        if len(data) > limit:
            raise PayloadTooLarge(f"the body may have at most {limit:,} bytes", max_bytes=limit)
    if data.lstrip()[:1] != b"{":
        raise missing_key()
    return _decode(bytes(data))


def _decode(data: bytes) -> PublishedReport:
    try:
        return msgspec.json.decode(data, type=PublishedReport)
    except msgspec.ValidationError as error:
        if "missing required field" in str(error):
            raise InvalidInput(f"the report is not complete: {error}", code=codes.MISSING_FIELD) from None
        raise InvalidInput(f"the report is not valid: {error}", field="diff") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the text is not JSON: {error}", code=codes.INVALID_JSON) from None
