"""One way to talk to a Domain: requests with authentication, retries and streaming, over HTTP or in process.

Api          what the SDKs use: JSON in and out, problem documents as errors, retries
  └── Transport   one request, one answer
        ├── HttpTransport      HTTP/1.1 with a pool of connections
        ├── RelayedTransport   the same through the relay of a Network, encrypted up to the Domain
        └── AsgiTransport      an application in this process, for tests and simulation

`open_transport` returns the transport for an address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pygrid.transport.api import Api
from pygrid.transport.base import Body, Request, Response, Transport
from pygrid.transport.connect import open_transport
from pygrid.transport.http import HttpTransport
from pygrid.transport.retry import NO_RETRIES, RetryPolicy

if TYPE_CHECKING:
    from pygrid.transport.asgi import AsgiTransport

__all__ = [
    "NO_RETRIES",
    "Api",
    "AsgiTransport",
    "Body",
    "HttpTransport",
    "Request",
    "Response",
    "RetryPolicy",
    "Transport",
    "open_transport",
]


def __getattr__(name: str) -> object:
    if name == "AsgiTransport":  # needs asyncio, which a device does not
        from pygrid.transport.asgi import AsgiTransport

        return AsgiTransport
    raise AttributeError(f"module 'pygrid.transport' has no attribute {name!r}")
