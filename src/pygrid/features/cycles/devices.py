"""Whether a device may take part, if its process asks for proof."""

from __future__ import annotations

from pygrid.core.config import Authentication
from pygrid.errors import Unauthenticated

ENDPOINT_TIMEOUT_S = 3.0
MAX_TOKEN_CHARS = 16 * 1024


async def check_device(authentication: Authentication | None, auth_token: str | None) -> str | None:
    """Check a device's token against what its process asks for; gives whom it names, if it was signed and names somebody.

    A JWT is tried against the secret (HS256), then the public key (RS256), each with its one algorithm. Its expiry counts, and
    its ``aud``, ``iss`` and the presence of an expiry where the process asks for them. Then the endpoint, if there is one, has
    the last word.

    Raises:
        Unauthenticated: ``auth_token_missing``, ``auth_token_invalid`` or ``auth_token_refused``.
    """
    if authentication is None or not (authentication.secret or authentication.pub_key or authentication.endpoint):
        return None
    if not auth_token:
        raise Unauthenticated("Authentication is required, please pass an 'auth_token'.", code="auth_token_missing")
    subject = None
    if authentication.secret or authentication.pub_key:
        subject = _check_signature(authentication, auth_token)
    if authentication.endpoint:
        await _ask_endpoint(authentication.endpoint, auth_token)
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
    raise Unauthenticated("The 'auth_token' you sent is invalid.", code="auth_token_invalid")


async def _ask_endpoint(endpoint: str, auth_token: str) -> None:
    import httpx  # here, for the same reason

    try:
        async with httpx.AsyncClient(timeout=ENDPOINT_TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
            response = await client.post(endpoint, json={"auth_token": auth_token})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _refused() from error
    if response.status_code != 200:
        raise _refused()


def _refused() -> Unauthenticated:
    return Unauthenticated("The 'auth_token' you sent did not pass 3rd party validation.", code="auth_token_refused")
