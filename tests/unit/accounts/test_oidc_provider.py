"""Answers of a sign-in provider, honest and forged, over a transport that the test holds.

Should happen: an answer whose signature, issuer, audience, nonce and times are right names a person.
Should not happen: a forged or borrowed token names one; the code or the secret reaches another address; a mark on one
e-mail vouches for another.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from pygrid.clock import SystemClock
from pygrid.core.oidc import PendingSignIn, ProvidedIdentity, ProviderConfig, RoleMapping
from pygrid.errors import Forbidden, PygridError, Unavailable
from pygrid.features.accounts.oidc.provider import OidcProvider

ISSUER = "https://login.example"
PENDING = PendingSignIn("a nonce", "v" * 43, "https://domain.example/admin/oidc/callback", "/admin/")
KEY = RSAKey.generate_key(2048, {"kid": "one"})
OTHER = RSAKey.generate_key(2048, {"kid": "one"})


class Forger:
    """A provider whose answers a test changes."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
            "userinfo_endpoint": f"{ISSUER}/me",
        }
        now = int(time.time())
        self.claims: dict[str, Any] = {
            "iss": ISSUER, "sub": "bob", "aud": "pygrid", "exp": now + 300, "iat": now, "nonce": PENDING.nonce,
        }  # fmt: skip
        self.person: dict[str, Any] = {"sub": "bob", "email": "bob@example.org", "email_verified": True}
        self.key, self.published = KEY, [KEY]
        self.alg = "RS256"
        self.token: Callable[[], str] = self._signed
        self.answers: dict[str, httpx.Response] = {}
        self.asked: list[httpx.Request] = []

    def _signed(self) -> str:
        return jwt.encode({"alg": self.alg, "kid": "one"}, self.claims, self.key)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        path = request.url.path
        if path in self.answers:
            return self.answers[path]
        match path:
            case "/.well-known/openid-configuration":
                return httpx.Response(200, json=self.metadata)
            case "/keys":
                return httpx.Response(200, json={"keys": [key.as_dict(private=False) for key in self.published]})
            case "/token":
                return httpx.Response(200, json={"id_token": self.token(), "access_token": "t", "token_type": "Bearer"})
            case "/me":
                return httpx.Response(200, json=self.person)
        raise AssertionError(path)

    def provider(self, **changes: Any) -> OidcProvider:
        config = {"issuer": ISSUER, "client_id": "pygrid", "client_secret": "s%cret", "scopes": "openid email"}
        mapping = RoleMapping.parse("groups", "staff=Administrator", "")
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return OidcProvider(ProviderConfig(roles=mapping, **{**config, **changes}), SystemClock(), http)

    async def redeem(self, **changes: Any) -> ProvidedIdentity:
        return await self.provider(**changes).redeem("a code", PENDING)


@pytest.fixture
def forger() -> Forger:
    return Forger()


async def test_a_right_answer_names_the_person(forger: Forger) -> None:
    forger.person["groups"] = ["staff", 7]
    found = await forger.redeem()
    assert found == ProvidedIdentity(ISSUER, "bob", "bob@example.org", True, frozenset({"staff"}))
    (sent,) = [request for request in forger.asked if request.url.path == "/token"]
    body = parse_qs(sent.content.decode())
    assert body == {
        "grant_type": ["authorization_code"],
        "code": ["a code"],
        "redirect_uri": [PENDING.redirect_uri],
        "code_verifier": [PENDING.verifier],
    }
    assert sent.headers["authorization"].startswith("Basic ")


async def test_the_address_binds_state_nonce_and_verifier(forger: Forger) -> None:
    url = urlsplit(await forger.provider().address("a state", PENDING))
    asked = {name: value for name, (value,) in parse_qs(url.query).items()}
    assert url.netloc == "login.example"
    assert (asked["state"], asked["nonce"], asked["response_type"]) == ("a state", "a nonce", "code")
    assert asked["code_challenge_method"] == "S256"
    assert PENDING.verifier not in url.query


@pytest.mark.parametrize("method", ["client_secret_post", "none"])
async def test_other_ways_of_the_client_to_prove_itself(forger: Forger, method: str) -> None:
    forger.metadata["token_endpoint_auth_methods_supported"] = [method]
    await forger.redeem(client_secret="" if method == "none" else "s%cret")
    (sent,) = [request for request in forger.asked if request.url.path == "/token"]
    body = parse_qs(sent.content.decode())
    assert body["client_id"] == ["pygrid"]
    assert body.get("client_secret") == (["s%cret"] if method == "client_secret_post" else None)


def _written(header: dict[str, str], claims: dict[str, Any], secret: bytes = b"") -> str:
    """A token as an attacker writes it, with an HMAC or without a signature."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), 'sha256')) if secret else ''}"


def _unsigned(forger: Forger) -> None:
    forger.token = lambda: _written({"alg": "none", "kid": "one"}, forger.claims)
    forger.metadata["id_token_signing_alg_values_supported"] = ["none", "RS256"]


def _by_the_public_key(forger: Forger) -> None:
    """A signature with the public key as a shared secret."""
    secret = KEY.as_pem(private=False)
    forger.token = lambda: _written({"alg": "HS256", "kid": "one"}, forger.claims, secret)
    forger.metadata["id_token_signing_alg_values_supported"] = ["HS256", "RS256"]


def _by_the_secret(forger: Forger) -> None:
    forger.token = lambda: _written({"alg": "HS256"}, forger.claims, b"s%cret")
    forger.metadata["id_token_signing_alg_values_supported"] = ["HS256"]


def _changed_claims(**changes: Any) -> Callable[[Forger], None]:
    def change(forger: Forger) -> None:
        forger.claims = {name: value for name, value in {**forger.claims, **changes}.items() if value is not None}

    return change


def _other_person(forger: Forger) -> None:
    forger.person["sub"] = "ann"


ATTACKS: dict[str, Callable[[Forger], None]] = {
    "no signature": _unsigned,
    "signed with the public key": _by_the_public_key,
    "signed with the client's secret": _by_the_secret,
    "signed by another key": lambda forger: setattr(forger, "key", OTHER),
    "no token": lambda forger: setattr(forger, "token", lambda: "a.b.c"),
    "another issuer": _changed_claims(iss="https://evil.example"),
    "another audience": _changed_claims(aud="another app"),
    "several audiences, another party": _changed_claims(aud=["pygrid", "another app"], azp="another app"),
    "several audiences, no party": _changed_claims(aud=["pygrid", "another app"]),
    "another nonce": _changed_claims(nonce="another nonce"),
    "no nonce": _changed_claims(nonce=None),
    "expired": _changed_claims(exp=int(time.time()) - 3600),
    "no expiry": _changed_claims(exp=None),
    "from the future": _changed_claims(iat=int(time.time()) + 3600, nbf=int(time.time()) + 3600),
    "no subject": _changed_claims(sub=None),
    "a subject that is no text": _changed_claims(sub=7),
    "of another access token": _changed_claims(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "user info of another person": _other_person,
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_forged_answer_names_nobody(forger: Forger, attack: str) -> None:
    ATTACKS[attack](forger)
    with pytest.raises(Forbidden) as raised:
        await forger.redeem()
    assert raised.value.code == "oidc_answer_invalid"


async def test_new_keys_of_the_provider_are_read(forger: Forger) -> None:
    provider = forger.provider()
    await provider.redeem("a code", PENDING)
    new = RSAKey.generate_key(2048, {"kid": "two"})
    forger.token = lambda: jwt.encode({"alg": "RS256", "kid": "two"}, forger.claims, new)
    forger.published = [new]
    assert (await provider.redeem("a code", PENDING)).subject == "bob"


async def test_the_mark_of_one_address_does_not_vouch_for_another(forger: Forger) -> None:
    forger.claims["email"] = "owner@example.org"
    found = await forger.redeem()
    assert (found.email, found.is_email_verified) == ("owner@example.org", False)


@pytest.mark.parametrize("sender", ["https://evil.example", ISSUER + "/", ""])
async def test_an_answer_of_another_provider_is_refused(forger: Forger, sender: str) -> None:
    with pytest.raises(Forbidden):
        await forger.provider().check_sender(sender)


async def test_a_provider_that_names_itself_must_do_so(forger: Forger) -> None:
    await forger.provider().check_sender(None)
    await forger.provider().check_sender(ISSUER)
    forger.metadata["authorization_response_iss_parameter_supported"] = True
    with pytest.raises(Forbidden):
        await forger.provider().check_sender(None)


def _answer(path: str, answer: httpx.Response) -> Callable[[Forger], None]:
    return lambda forger: forger.answers.update({path: answer})


def _metadata(**changes: Any) -> Callable[[Forger], None]:
    return lambda forger: forger.metadata.update(changes)


BROKEN: dict[str, Callable[[Forger], None]] = {
    "of another issuer": _metadata(issuer="https://evil.example"),
    "token endpoint without TLS": _metadata(token_endpoint="http://login.example/token"),
    "keys without TLS": _metadata(jwks_uri="http://login.example/keys"),
    "no JSON": _answer("/.well-known/openid-configuration", httpx.Response(200, text="<html>")),
    "redirect of the description": _answer(
        "/.well-known/openid-configuration", httpx.Response(302, headers={"location": "https://evil.example"})
    ),
    "redirect of the token endpoint": _answer(
        "/token", httpx.Response(307, headers={"location": "https://evil.example"})
    ),
    "failing token endpoint": _answer("/token", httpx.Response(500)),
    "huge answer": _answer("/token", httpx.Response(200, content=b" " * 2**21)),
    "no keys": _answer("/keys", httpx.Response(404)),
    "failing user info": _answer("/me", httpx.Response(500)),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_provider_that_breaks_the_protocol_is_an_outage(forger: Forger, fault: str) -> None:
    BROKEN[fault](forger)
    with pytest.raises(Unavailable) as raised:
        await forger.redeem()
    assert raised.value.code == "oidc_unreachable"
    assert {request.url.host for request in forger.asked} == {"login.example"}


async def test_a_code_that_the_provider_refuses(forger: Forger) -> None:
    forger.answers["/token"] = httpx.Response(400, content=json.dumps({"error": "invalid_grant"}))
    with pytest.raises(PygridError, match="status 400: invalid_grant"):
        await forger.redeem()


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["other", "guests"]}, "User"),
        ({"groups": ["guests", "CN=it,DC=example=staff"]}, "Administrator"),
        ({"groups": "guests"}, "User"),
        ({"groups": {"guests": True}}, "Visitor"),
        ({}, "Visitor"),
    ],
)
def test_the_first_entry_of_the_mapping_counts(claims: dict[str, Any], role: str) -> None:
    mapping = RoleMapping.parse("groups", "CN=it,DC=example=staff=Administrator; guests=User", "Visitor")
    assert mapping.find_role(mapping.groups_in(claims)) == role


def test_a_claim_can_lie_in_an_object() -> None:
    mapping = RoleMapping.parse("realm_access.roles", "staff=User", "")
    assert mapping.groups_in({"realm_access": {"roles": ["staff"]}}) == {"staff"}
    assert mapping.groups_in({"realm_access": "staff"}) == frozenset()
