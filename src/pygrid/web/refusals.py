"""Answers of a server that refuses a request or a connection before the app sees it."""

from __future__ import annotations

import http

import msgspec

from pygrid.messages import media
from pygrid.web.connections import ConnectionLimits


class Refused(Exception):
    """A request is refused.

    Attributes:
        answer: arguments of `refusal`.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.answer = status, code, detail


def refusal(status: int, code: str, detail: str, headers: bytes = b"") -> bytes:
    """Return a problem document as an HTTP/1.1 answer that ends the connection. Each of ``headers`` ends with CRLF."""
    phrase = http.HTTPStatus(status).phrase
    body = msgspec.json.encode(
        {"type": f"urn:pygrid:error:{code}", "title": phrase, "status": status, "detail": detail, "code": code}
    )
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {media.PROBLEM}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n"
    )
    return head.encode() + headers + b"\r\n" + body


def connection_refusal(code: str, limits: ConnectionLimits) -> bytes:
    """Return the answer to a connection that was not admitted; `Connections.admit` returned the ``code``."""
    if code == "too_many_connections":
        most = limits.max_connections_per_address
        status, detail = 429, f"your address has {most} connections open, the limit for one address"
    else:
        status, detail = 503, f"the server has {limits.max_connections} busy connections, which is its limit"
    return refusal(status, code, detail, b"retry-after: 1\r\n")
