"""Whether a device may take part, if its process asks for proof."""

from __future__ import annotations

import asyncio

from pygrid import codes
from pygrid.core.process_config import Authentication
from pygrid.errors import PygridError, Unauthenticated, Unavailable
from pygrid.transport.untrusted import fetch_from_stranger

ENDPOINT_TIMEOUT_S = 3.0
"""For one question, waiting for others to end not included."""
ENDPOINT_WAIT_S = 10.0
"""Longest wait for other questions to end."""
MAX_ENDPOINT_BYTES = 4 * 1024
MAX_ENDPOINT_QUESTIONS = 8
"""Questions that are open at once, of all processes together."""
MAX_ENDPOINT_WAITING = 256
MAX_TOKEN_CHARS = 16 * 1024


class Endpoints:
    """Asks what ``authentication.endpoint`` names: a few questions at once, each with bounds on time and size.

    Args:
        allow_private: whether an endpoint may lie in a private network or on this machine.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._places = asyncio.Semaphore(MAX_ENDPOINT_QUESTIONS)
        self._num_waiting = 0

    async def ask(self, endpoint: str, auth_token: str) -> None:
        """Return if the endpoint answers 200.

        Raises:
            Unauthenticated: ``auth_token_refused``: another answer, none in time, or an address that must not be
                called.
            Unavailable: ``endpoints_busy``: too many other questions are open.
        """
        if self._num_waiting >= MAX_ENDPOINT_WAITING:
            raise _busy()
        self._num_waiting += 1
        try:
            async with asyncio.timeout(ENDPOINT_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._num_waiting -= 1
        try:
            answer = await fetch_from_stranger(
                endpoint,
                json={"auth_token": auth_token},
                allow_private=self._allow_private,
                timeout_s=ENDPOINT_TIMEOUT_S,
                max_bytes=MAX_ENDPOINT_BYTES,
            )
        except PygridError as error:
            raise _refused() from error
        finally:
            self._places.release()
        if answer.status != 200:
            raise _refused()


async def check_device(
    authentication: Authentication | None, auth_token: str | None, endpoints: Endpoints
) -> str | None:
    """Check a device's token against what its process asks for; gives whom it names, if it was signed and names
    somebody.

    A JWT is tried against the secret (HS256), then the public key (RS256), each with its one algorithm. Its expiry
    counts, and its ``aud``, ``iss`` and the presence of an expiry where the process asks for them. Then the endpoint,
    if there is one, has the last word.

    Raises:
        Unauthenticated: ``auth_token_missing``, ``auth_token_invalid`` or ``auth_token_refused``.
        Unavailable: ``endpoints_busy``.
    """
    if authentication is None or not (authentication.secret or authentication.pub_key or authentication.endpoint):
        return None
    if not auth_token:
        raise Unauthenticated("Authentication is required, please pass an 'auth_token'.", code=codes.AUTH_TOKEN_MISSING)
    subject = None
    if authentication.secret or authentication.pub_key:
        subject = _check_signature(authentication, auth_token)
    if authentication.endpoint:
        await endpoints.ask(authentication.endpoint, auth_token)
    return subject


def _check_signature(authentication: Authentication, auth_token: str) -> str | None:
    import jwt  # here, because most Domains never need it and it brings 9 MB

    keys = ((authentication.secret, "HS256"), (authentication.pub_key, "RS256"))
    if len(auth_token) <= MAX_TOKEN_CHARS:
        for key, algorithm in keys:
            if key is None:
                continue
            try:
                claims = jwt.decode(
                    auth_token,
                    key,
                    algorithms=[algorithm],
                    audience=authentication.aud,
                    issuer=authentication.iss,
                    options={
                        "verify_aud": authentication.aud is not None,
                        "require": ["exp"] if authentication.require_exp else [],
                    },
                )
            except (jwt.PyJWTError, ValueError, OverflowError, RecursionError):
                continue
            subject = claims.get("sub")
            return subject if isinstance(subject, str) else None
    raise Unauthenticated("The 'auth_token' you sent is invalid.", code=codes.AUTH_TOKEN_INVALID)


def _busy() -> Unavailable:
    return Unavailable("too many devices are being checked; try again", code=codes.ENDPOINTS_BUSY, retry_after_s=1.0)


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "The 'auth_token' you sent did not pass 3rd party validation.", code=codes.AUTH_TOKEN_REFUSED
    )
