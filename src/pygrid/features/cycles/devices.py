"""Checks the token of a device, for processes that require authentication."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from pygrid import codes
from pygrid.configuration import Authentication
from pygrid.core.processes import HostedProcess
from pygrid.errors import PygridError, Unauthenticated, Unavailable
from pygrid.transport.untrusted import fetch_untrusted

logger = logging.getLogger(__name__)

ENDPOINT_TIMEOUT_S = 3.0
"""Timeout of one request, without the wait for other requests to end."""
ENDPOINT_WAIT_S = 10.0
"""Longest wait for other requests to end."""
MAX_ENDPOINT_BYTES = 4 * 1024
MAX_ENDPOINT_REQUESTS = 32
"""Requests that are open at once, for all processes together."""
MAX_ENDPOINT_REQUESTS_PER_PROCESS = 4
MAX_ENDPOINT_WAITING = 64
"""Devices of one process that wait for their request."""
MAX_TOKEN_CHARS = 16 * 1024


class Endpoints:
    """Sends tokens to the ``authentication.endpoint`` of a process: few at once, with bounds on time and size.

    Args:
        allow_private: whether an endpoint may be in a private network or on this machine.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._places = asyncio.Semaphore(MAX_ENDPOINT_REQUESTS)
        self._places_of: dict[int, asyncio.Semaphore] = {}
        self._num_present: Counter[int] = Counter()
        """Process -> its devices that wait or whose request is open."""

    async def check(self, process_id: int, endpoint: str, auth_token: str) -> None:
        """Return if the endpoint answers 200 to the token. The log has the reason of a refusal, which no device learns.

        Raises:
            Unauthenticated: ``auth_token_refused``: the endpoint gave another answer or none in time, or this Domain
                must not call its address.
            Unavailable: ``endpoints_busy``: too many other requests are open.
        """
        async with self._place(process_id):
            try:
                answer = await fetch_untrusted(
                    endpoint,
                    json={"auth_token": auth_token},
                    allow_private=self._allow_private,
                    timeout_s=ENDPOINT_TIMEOUT_S,
                    max_bytes=MAX_ENDPOINT_BYTES,
                )
            except PygridError as error:
                logger.warning(
                    "endpoint for tokens not usable",
                    extra={
                        "process_id": process_id,
                        "host": urlsplit(endpoint).hostname,
                        "code": error.code,
                        "reason": error.detail,
                    },
                )
                raise _refused() from error
        if answer.status != 200:
            logger.info("endpoint refused a token", extra={"process_id": process_id, "status": answer.status})
            raise _refused()

    @contextlib.asynccontextmanager
    async def _place(self, process_id: int) -> AsyncIterator[None]:
        """Wait for one of the few requests of a process, and of all processes. Raises Unavailable: ``endpoints_busy``.

        A process whose endpoint is slow does not keep the devices of others waiting.
        """
        if self._num_present[process_id] >= MAX_ENDPOINT_WAITING + MAX_ENDPOINT_REQUESTS_PER_PROCESS:
            raise _busy()
        places = self._places_of.setdefault(process_id, asyncio.Semaphore(MAX_ENDPOINT_REQUESTS_PER_PROCESS))
        self._num_present[process_id] += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(ENDPOINT_WAIT_S):
                        for one in (places, self._places):
                            await stack.enter_async_context(one)
                except TimeoutError:
                    raise _busy() from None
                yield
        finally:
            self._num_present[process_id] -= 1
            if not self._num_present[process_id]:
                del self._num_present[process_id], self._places_of[process_id]


async def check_device(process: HostedProcess, auth_token: str | None, endpoints: Endpoints) -> str | None:
    """Check a device's token as its process requires, and return the subject of a signed token, if it has one.

    A JWT is checked with the secret (HS256), then with the public key (RS256), each with its one algorithm. Its expiry
    is checked, and where the process requires it, ``aud``, ``iss`` and the presence of an expiry. Then the endpoint, if
    the process has one, must accept the token too.

    Raises:
        Unauthenticated: ``auth_token_missing``, ``auth_token_invalid`` or ``auth_token_refused``.
        Unavailable: ``endpoints_busy``.
    """
    authentication = process.config.authentication
    if authentication is None or not (authentication.secret or authentication.pub_key or authentication.endpoint):
        return None
    if not auth_token:
        raise Unauthenticated("Authentication is required, please pass an 'auth_token'.", code=codes.AUTH_TOKEN_MISSING)
    subject = None
    if authentication.secret or authentication.pub_key:
        subject = _check_signature(authentication, auth_token)
    if authentication.endpoint:
        await endpoints.check(process.id, authentication.endpoint, auth_token)
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
    return Unavailable(
        "too many devices are being checked; try again in 1 s", code=codes.ENDPOINTS_BUSY, retry_after_s=1.0
    )


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "The 'auth_token' you sent did not pass 3rd party validation.", code=codes.AUTH_TOKEN_REFUSED
    )
