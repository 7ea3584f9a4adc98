"""Talks to an OpenID Connect provider, and checks what it answers.

Source: OpenID Connect Core 1.0, sections 3.1 and 5.3; Discovery 1.0, section 4; RFC 7636 (PKCE); RFC 9207 (issuer of an
answer). The signature of an ID token is checked by joserfc, its claims and the requests are Authlib's.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from pygrid import codes
from pygrid.clock import Clock
from pygrid.core.oidc import PendingSignIn, ProvidedIdentity, ProviderConfig
from pygrid.errors import Forbidden, Unavailable
from pygrid.settings import is_loopback_url
from pygrid.transport.authorities import trusting_context

T = TypeVar("T")

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 1024**2
METADATA_S = 3600.0
"""Seconds that the description of the provider and its keys are kept."""
LEEWAY_S = 60
"""Largest difference of the clocks of the provider and the app, in seconds."""
MAX_TEXT = 255
"""Longest subject, by OpenID Connect Core, section 2."""
ALGORITHMS = (*("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"))
"""Signatures with a key pair. ``none`` and signatures with the client's secret are never accepted."""


class ProviderMetadata(msgspec.Struct):
    """What a provider says about itself at ``/.well-known/openid-configuration``."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] = msgspec.field(default_factory=lambda: ["client_secret_basic"])
    id_token_signing_alg_values_supported: list[str] = msgspec.field(default_factory=lambda: ["RS256"])
    authorization_response_iss_parameter_supported: bool = False


class TokenAnswer(msgspec.Struct):
    id_token: str
    access_token: str


class OidcProvider:
    """The provider of an app.

    Its methods raise:
        Unavailable: ``oidc_unreachable``: it does not answer, or not as the protocol says.
        Forbidden: ``oidc_answer_invalid``: its answer fails a check.
    """

    def __init__(self, config: ProviderConfig, clock: Clock, http: httpx.AsyncClient | None = None) -> None:
        self._config = config
        self._clock = clock
        self._http = http or httpx.AsyncClient(
            timeout=TIMEOUT_S, headers={"User-Agent": "pygrid"}, verify=trusting_context()
        )
        self._metadata: ProviderMetadata | None = None
        self._keys: KeySet | None = None
        self._read_at = 0.0

    async def close(self) -> None:
        await self._http.aclose()

    async def address(self, state: str, pending: PendingSignIn) -> str:
        """Return the address of the provider's sign-in page."""
        metadata = await self._read_metadata()
        url: str = prepare_grant_uri(
            metadata.authorization_endpoint,
            client_id=self._config.client_id,
            response_type="code",
            redirect_uri=pending.redirect_uri,
            scope=self._config.scopes,
            state=state,
            nonce=pending.nonce,
            code_challenge=create_s256_code_challenge(pending.verifier),
            code_challenge_method="S256",
        )
        return url

    async def check_sender(self, issuer: str | None) -> None:
        """Refuse an answer in the browser that another provider has sent, and one that does not name its sender where
        this provider does.
        """
        metadata = await self._read_metadata()
        if issuer is None and not metadata.authorization_response_iss_parameter_supported:
            return
        if issuer != self._config.issuer:
            raise _invalid("it names another issuer")

    async def redeem(self, code: str, pending: PendingSignIn) -> ProvidedIdentity:
        """Exchange the code of an answer for the identity of the person."""
        metadata = await self._read_metadata()
        answer = await self._exchange(metadata, code, pending)
        claims = await self._check_id_token(metadata, answer, pending.nonce)
        return await self._identify(metadata, claims, answer.access_token)

    async def _exchange(self, metadata: ProviderMetadata, code: str, pending: PendingSignIn) -> TokenAnswer:
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=pending.redirect_uri, code_verifier=pending.verifier
        )
        auth = ClientAuth(self._config.client_id, self._config.client_secret, self._client_method(metadata))
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        url, headers, body = auth.prepare("POST", metadata.token_endpoint, headers, body)
        status, content = await self._send("POST", url, headers, body)
        if 400 <= status < 500:
            raise _invalid(f"its token endpoint refuses the code with status {status}: {_reason(content)}")
        return _decode(url, status, content, TokenAnswer)

    def _client_method(self, metadata: ProviderMetadata) -> str:
        """How this app proves itself at the token endpoint."""
        if not self._config.client_secret:
            return "none"
        supported = metadata.token_endpoint_auth_methods_supported
        return "client_secret_post" if supported and "client_secret_basic" not in supported else "client_secret_basic"

    async def _check_id_token(self, metadata: ProviderMetadata, answer: TokenAnswer, nonce: str) -> Mapping[str, Any]:
        """Return the claims of an ID token whose signature, issuer, audience, times and nonce are right."""
        supported = metadata.id_token_signing_alg_values_supported
        algorithms = [name for name in ALGORITHMS if name in supported]
        try:
            try:
                token = _verify(answer.id_token, await self._read_keys(metadata), algorithms)
            except InvalidKeyIdError:  # the provider has changed its keys
                token = _verify(answer.id_token, await self._read_keys(metadata, again=True), algorithms)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self._config.issuer},
                    "aud": {"essential": True, "value": self._config.client_id},
                },
                {"nonce": nonce, "client_id": self._config.client_id, "access_token": answer.access_token},
            )
            claims.validate(int(self._clock.now().timestamp()), LEEWAY_S)
        except JoseError as error:
            raise _invalid(f"its ID token is not valid ({error})") from error
        except (ValueError, TypeError) as error:
            raise _invalid("its ID token is malformed") from error
        return dict(claims)

    async def _identify(
        self, metadata: ProviderMetadata, claims: Mapping[str, Any], access_token: str
    ) -> ProvidedIdentity:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_TEXT or not subject.isprintable():
            raise _invalid("its subject is not a short text")
        more: Mapping[str, Any] = {}
        if metadata.userinfo_endpoint:
            headers = {"Accept": "application/json", "Authorization": f"Bearer {access_token}"}
            more = await self._fetch(metadata.userinfo_endpoint, dict[str, Any], headers)
            given = more.get("sub")
            if not isinstance(given, str) or not hmac.compare_digest(given.encode(), subject.encode()):
                raise _invalid("its user info is of another person")
        # Address and mark come from the same document, because the mark says nothing about another address.
        source = claims if "email" in claims else more
        email = source.get("email")
        groups = self._config.roles.groups_in(claims) or self._config.roles.groups_in(more)
        return ProvidedIdentity(
            self._config.issuer,
            subject,
            email if isinstance(email, str) else "",
            # Amazon Cognito sends a text.
            source.get("email_verified") in (True, "true"),
            groups,
        )

    async def _read_metadata(self) -> ProviderMetadata:
        now = self._clock.now().timestamp()
        if self._metadata is None or not 0 <= now - self._read_at < METADATA_S:
            url = f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration"
            metadata = await self._fetch(url, ProviderMetadata)
            if metadata.issuer != self._config.issuer:
                raise Unavailable(
                    f"{url} describes the issuer {metadata.issuer[:200]!r}: PYGRID_OIDC_ISSUER must be that text",
                    code=codes.OIDC_UNREACHABLE,
                )
            is_local = is_loopback_url(self._config.issuer)
            endpoints = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
            for endpoint in (*endpoints, metadata.userinfo_endpoint or self._config.issuer):
                if urlsplit(endpoint).scheme != "https" and not (is_local and is_loopback_url(endpoint)):
                    raise Unavailable(
                        f"{url} names the endpoint {endpoint[:200]!r}, which is not https", code=codes.OIDC_UNREACHABLE
                    )
            self._metadata, self._keys, self._read_at = metadata, None, now
        return self._metadata

    async def _read_keys(self, metadata: ProviderMetadata, *, again: bool = False) -> KeySet:
        if self._keys is None or again:
            found: Any = await self._fetch(metadata.jwks_uri, dict[str, Any])
            try:
                self._keys = KeySet.import_key_set(found)
            except (JoseError, KeyError, ValueError, TypeError) as error:
                raise _unreachable(metadata.jwks_uri, "it publishes no usable keys") from error
        return self._keys

    async def _fetch(self, url: str, kind: type[T], headers: Mapping[str, str] | None = None) -> T:
        status, content = await self._send("GET", url, headers or {"Accept": "application/json"})
        return _decode(url, status, content, kind)

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: str | None = None
    ) -> tuple[int, bytes]:
        """Return status and body. Redirects are not followed: the code and the secret are for this address alone."""
        try:
            async with self._http.stream(method, url, headers=dict(headers), content=body) as answer:
                content = bytearray()
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise _unreachable(url, f"it answers with more than {MAX_ANSWER_BYTES:,} bytes")
                return answer.status_code, bytes(content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(url, str(error) or "it did not answer in time") from error


def _verify(text: str, keys: KeySet, algorithms: Sequence[str]) -> jwt.Token:
    return jwt.decode(text, keys, registry=JWSRegistry(algorithms=list(algorithms), strict_check_header=False))


def _decode(url: str, status: int, content: bytes, kind: type[T]) -> T:
    if status != 200:
        raise _unreachable(url, f"it answers with status {status}")
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise _unreachable(url, f"its answer does not follow the protocol ({error})") from error


def _reason(content: bytes) -> str:
    """The error code of an answer of the token endpoint."""
    try:
        error = msgspec.json.decode(content, type=dict[str, Any]).get("error")
    except msgspec.DecodeError:
        error = None
    return error[:80] if isinstance(error, str) and error.isprintable() else "no reason"


def _invalid(why: str) -> Forbidden:
    return Forbidden(f"the answer of the sign-in provider is refused: {why}", code=codes.OIDC_ANSWER_INVALID)


def _unreachable(url: str, why: str) -> Unavailable:
    return Unavailable(f"the sign-in provider cannot be used: {url[:200]}: {why}", code=codes.OIDC_UNREACHABLE)
