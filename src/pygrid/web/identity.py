"""Who the app is, for anybody who asks (``GET /identity``)."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Router, get
from litestar.datastructures import State
from litestar.params import FromQuery

import pygrid
from pygrid.messages.identity import NONCE_BYTES, IdentityInfo, from_base64url, to_base64url
from pygrid.transport.identity import Identity
from pygrid.web.problems import describe_problems


@get("/identity", responses=describe_problems(400), sync_to_thread=False)
def get_identity(state: State, nonce: FromQuery[str | None] = None) -> IdentityInfo:
    """Name and identity of this app, and a signature that proves it for the ``nonce``: 32 random bytes in base64url.

    Without a nonce it tells people who it is, and proves nothing.
    """
    identity: Identity = state.identity
    name: str = state.settings.id
    info = IdentityInfo(name, str(identity.key), pygrid.__version__, state.settings.app)
    if nonce is None:
        return info
    challenge = from_base64url(nonce, NONCE_BYTES, "nonce")
    signature = to_base64url(identity.sign("identity", challenge, name.encode()))
    return msgspec.structs.replace(info, signature=signature)


def identity_routes() -> list[Any]:
    """The route; the app's state holds ``identity`` and ``settings``."""
    return [Router("/", route_handlers=[get_identity], tags=["identity"])]
