"""The identity of the app, public (``GET /identity``)."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Router, get
from litestar.datastructures import State
from litestar.params import FromQuery

import pygrid
from pygrid.messages.identity import NONCE_BYTES, IdentityInfo, from_base64url, to_base64url
from pygrid.settings import AppSettings
from pygrid.transport.identity import Identity
from pygrid.web.problems import describe_problems
from pygrid.web.services import service


@get("/identity", responses=describe_problems(400), sync_to_thread=False)
def get_identity(state: State, nonce: FromQuery[str | None] = None) -> IdentityInfo:
    """Name and identity of this app, with a signature over the ``nonce``: 32 random bytes in base64url.

    Without a nonce, the answer proves nothing.
    """
    identity, settings = service(state, Identity), service(state, AppSettings)
    info = IdentityInfo(settings.id, str(identity.key), pygrid.__version__, settings.app)
    if nonce is None:
        return info
    challenge = from_base64url(nonce, NONCE_BYTES, "nonce")
    signature = to_base64url(identity.sign("identity", challenge, settings.id.encode()))
    return msgspec.structs.replace(info, signature=signature)


def identity_routes() -> list[Any]:
    """Return the route; it needs the services `Identity` and `AppSettings`."""
    return [Router("/", route_handlers=[get_identity], tags=["identity"])]
