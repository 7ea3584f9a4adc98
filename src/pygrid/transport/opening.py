"""From an address to what carries requests there."""

from __future__ import annotations

from pygrid.transport.base import Transport
from pygrid.transport.http import HttpTransport


def open_transport(url: str) -> Transport:
    """The way to the Domain or Network at an address. Nothing is sent yet.

    Raises:
        InvalidInput: ``invalid_url``: not an address.
    """
    return HttpTransport(url)
