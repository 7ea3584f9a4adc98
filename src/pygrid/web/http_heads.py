"""Checks the heads of HTTP/1.1 requests, and refuses what other readers could interpret differently."""

from __future__ import annotations

from collections.abc import Iterable

import httptools

from pygrid.web.refusals import Refused

_ONLY_ONCE = frozenset({b"host", b"transfer-encoding", b"content-length"})


def find_body_length(
    headers: Iterable[tuple[bytes, bytes]], *, method: bytes, version: str, should_upgrade: bool, is_websocket: bool
) -> int | None:
    """Return the length of the body that a head announces; None: it is chunked.

    Args:
        headers: names in lower case.
        should_upgrade: whether the client requests another protocol.
        is_websocket: whether the server will use that protocol.
    Raises:
        Refused: ``invalid_http``.
    """
    length: int | None = 0
    seen = set()
    for name, value in headers:
        if name not in _ONLY_ONCE:
            continue
        if name in seen:
            raise _invalid(f"the header {name.decode()} must occur once")
        seen.add(name)
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            length = None
            if value.lower() != b"chunked" or version != "1.1":
                raise _invalid("the only transfer coding is chunked, of HTTP/1.1")
    if method == b"CONNECT":
        raise _invalid("this server is not a proxy")
    if should_upgrade and length != 0:
        raise _invalid("a request for an upgrade must not have a body")
    if is_websocket and method != b"GET":
        raise _invalid("a WebSocket begins with GET")
    return length


def refused_by(error: httptools.HttpParserError) -> Refused:
    """Return why the parser, or a callback of it, did not accept the bytes."""
    if isinstance(error.__context__, Refused):
        return error.__context__
    reason = str(error) if type(error) is httptools.HttpParserError else "it cannot be understood"
    return _invalid(f"the request is not valid HTTP/1.1: {reason}")


def _invalid(detail: str) -> Refused:
    return Refused(400, "invalid_http", detail)
