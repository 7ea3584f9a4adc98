"""``server_config.authentication``: how a device proves that it may take part.

Should happen: a token signed with the secret (HS256) or the key (RS256) is enough; the endpoint, if there is one, has
the last word.
Should not happen: a token that is unsigned, expired, signed by another, or signed with the public key as if it were a
secret gets in; a broken token or key is a fault of the server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pygrid.errors import Unauthenticated
from pygrid.features.cycles.devices import Endpoints
from pygrid.tensors import encode
from support.eventually import eventually
from support.training import Site, config, form, model
from support.web import assert_problem

SECRET = "a secret of at least thirty-two bytes"
_KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
PRIVATE, STRANGER = _KEYS
PUBLIC = (
    PRIVATE.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


async def _try(site: Site, token: str | None) -> Any:
    message = {"model_name": "digits", "model_version": "1.0"}
    if token is not None:
        message["auth_token"] = token
    return await site.web.post("/model-centric/authenticate", json=message)


def _unsigned(header: dict[str, Any], payload: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload)]
    return ".".join([*parts, ""])


def _hs256(payload: dict[str, Any], secret: str = SECRET) -> str:
    return jwt.encode(payload, secret, "HS256")


def _with_public_key_as_secret() -> str:
    """The library refuses to sign so, an attacker does not."""
    import hashlib
    import hmac

    head, body, _ = _unsigned({"alg": "HS256", "typ": "JWT"}, {"id": 1}).split(".")
    digest = hmac.new(PUBLIC.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_a_token_of_the_secret_is_enough(site: Site) -> None:
    await site.host(authentication={"secret": SECRET, "type": "jwt"})
    assert (await _try(site, _hs256({"id": 1}))).status_code == 200
    assert (await _try(site, _hs256({"exp": time.time() + 60, "aud": "anyone"}))).status_code == 200
    assert_problem(await _try(site, None), 400, "auth_token_missing")
    assert_problem(await _try(site, ""), 400, "auth_token_missing")


async def test_a_token_of_the_key_is_enough(site: Site) -> None:
    await site.host(authentication={"pub_key": PUBLIC})
    assert (await _try(site, jwt.encode({"id": 1}, PRIVATE, "RS256"))).status_code == 200
    assert_problem(await _try(site, jwt.encode({"id": 1}, STRANGER, "RS256")), 400, "auth_token_invalid")


async def test_of_secret_and_key_one_is_enough(site: Site) -> None:
    await site.host(authentication={"secret": SECRET, "pub_key": PUBLIC})
    assert (await _try(site, _hs256({}))).status_code == 200
    assert (await _try(site, jwt.encode({}, PRIVATE, "RS256"))).status_code == 200


async def test_the_audience_the_issuer_and_the_expiry_count_where_the_process_sets_them(site: Site) -> None:
    await site.host(
        authentication={"secret": SECRET, "aud": "digits", "iss": "https://issuer.example", "require_exp": True}
    )
    good = {"aud": "digits", "iss": "https://issuer.example", "exp": time.time() + 60}
    assert (await _try(site, _hs256(good))).status_code == 200
    assert (await _try(site, _hs256({**good, "aud": ["other", "digits"]}))).status_code == 200
    wrong: list[dict[str, Any]] = [
        {**good, "aud": "other"},
        {**good, "iss": "https://other.example"},
        {**good, "exp": 1},
    ]
    wrong += [{name: value for name, value in good.items() if name != missing} for missing in good]
    for claims in wrong:
        assert_problem(await _try(site, _hs256(claims)), 400, "auth_token_invalid")


@pytest.mark.parametrize(
    "authentication",
    [
        {"aud": "digits"},
        {"iss": "x", "endpoint": "https://a.example"},
        {"require_exp": True},
        {"secret": SECRET, "aud": ""},
        {"secret": SECRET, "iss": "a\u0000b"},
        {"secret": SECRET, "aud": 5},
    ],
)
async def test_claims_that_make_no_sense_are_refused_at_hosting(site: Site, authentication: dict[str, Any]) -> None:
    parts = form(config(authentication=authentication), encode(model()))
    assert_problem(await site.try_host(parts), 400, "invalid_config")
    assert (await site.web.get("/model-centric/processes", headers=site.owner)).json() == {"processes": []}


FORGED: dict[str, str] = {
    "another secret": _hs256({"id": 1}, "b" * 40),
    "expired": _hs256({"exp": time.time() - 60}),
    "not yet good": _hs256({"nbf": time.time() + 86_400}),
    "no algorithm": _unsigned({"alg": "none", "typ": "JWT"}, {"id": 1}),
    "no algorithm, shouted": _unsigned({"alg": "NONE", "typ": "JWT"}, {"id": 1}),
    "the public key as a secret": _with_public_key_as_secret(),
    "another algorithm": jwt.encode({"id": 1}, SECRET * 2, "HS512"),
    "another's key": jwt.encode({"id": 1}, STRANGER, "RS256"),
    "a signature cut off": _hs256({"id": 1})[:-4],
    "a payload exchanged": ".".join(
        [_hs256({"id": 1}).split(".")[0], _hs256({"id": 2}).split(".")[1], _hs256({"id": 1}).split(".")[2]]
    ),
    "an expiry that is none": _hs256({"exp": "soon"}),
    "an expiry without end": _hs256({"exp": float("inf")}),
    "no token": "x",
    "dots": "...",
    "not base64": "é.é.é",
    "nested deeply": base64.urlsafe_b64encode(b"[" * 12_000).decode() + ".e30.e30",
    "a header that is a list": base64.urlsafe_b64encode(b"[]").decode() + ".e30.e30",
    "too long": "a" * 20_000,
}


async def test_forged_tokens_are_refused(site: Site, subtests: pytest.Subtests) -> None:
    await site.host(authentication={"secret": SECRET, "pub_key": PUBLIC})
    for name, token in FORGED.items():
        with subtests.test(name):
            assert_problem(await _try(site, token), 400, "auth_token_invalid")


async def test_a_key_or_address_that_is_none_is_refused_when_hosting(site: Site) -> None:
    private = PRIVATE.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    for authentication in (
        {"pub_key": PUBLIC.replace("M", "?")},
        {"pub_key": "-----BEGIN PUBLIC KEY-----"},
        {"pub_key": private},
        {"endpoint": "http://["},
        {"endpoint": "http://"},
        {"endpoint": "http://host:0/"},
        {"endpoint": "http://host:99999/"},
        {"endpoint": "file:///etc/passwd"},
        {"endpoint": "http://a\nb/"},
    ):
        answer = await site.try_host(form(config(authentication=authentication), encode(model())))
        assert_problem(answer, 400, "invalid_config")


async def test_without_a_way_to_prove_it_all_are_let_in(site: Site) -> None:
    await site.host(authentication={"type": "jwt"})
    assert (await _try(site, None)).status_code == 200


class Endpoint:
    """A local HTTP server that a process asks about its devices; it answers what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.hang = False
        self.headers = b""
        self.flood = b""
        """Sent again and again in place of an answer."""
        self.pause_s = 0.0
        self._over = asyncio.Event()
        self.asked: list[bytes] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self._answer(reader, writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [
                line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            self.asked.append(await reader.readexactly(int(lengths[0]) if lengths else 0))
            status = 200 if b" /let-in " in head else self.status
            if self.hang:
                await reader.read()
            if self.flood:
                writer.write(b"HTTP/1.1 200 OK\r\n")
            while self.flood:
                writer.write(self.flood)
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), self.pause_s)
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n" % (status, self.headers))
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    asked = Endpoint()
    server = await asyncio.start_server(asked.answer, "127.0.0.1", 0)
    asked.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/check"
    async with server:
        yield asked


async def test_the_endpoint_has_the_last_word(site: Site, endpoint: Endpoint) -> None:
    await site.host(authentication={"secret": SECRET, "endpoint": endpoint.url})
    token = _hs256({"id": 1})
    assert (await _try(site, token)).status_code == 200
    assert [json.loads(body) for body in endpoint.asked] == [{"auth_token": token}]
    for status in (201, 302, 401, 404, 500):
        endpoint.status = status
        endpoint.headers = (
            b"Location: " + endpoint.url.replace("/check", "/let-in").encode() + b"\r\n" if status == 302 else b""
        )
        assert_problem(await _try(site, token), 400, "auth_token_refused")
    num_asked = len(endpoint.asked)
    # Who is refused here is not asked about there; a redirection is not followed.
    assert_problem(await _try(site, "forged"), 400, "auth_token_invalid")
    assert len(endpoint.asked) == num_asked == 6


async def test_an_endpoint_that_does_not_answer_lets_nobody_in(
    site: Site, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygrid.features.cycles.devices.ENDPOINT_TIMEOUT_S", 0.2)
    await site.host(authentication={"endpoint": endpoint.url})
    endpoint.hang = True
    assert_problem(await _try(site, "anything"), 400, "auth_token_refused")
    await site.host(name="gone", authentication={"endpoint": "http://127.0.0.1:1/"})
    answer = await site.web.post("/model-centric/authenticate", json={"model_name": "gone", "auth_token": "anything"})
    assert_problem(answer, 400, "auth_token_refused")


async def test_secrets_are_not_shown(site: Site) -> None:
    process = await site.host(authentication={"secret": SECRET, "pub_key": PUBLIC})
    for path in (f"/model-centric/processes/{process['id']}", "/model-centric/processes"):
        answer = await site.web.get(path, headers=site.owner)
        assert SECRET not in answer.text
    assert process["server_config"]["authentication"]["secret"] == "(set)"
    assert process["server_config"]["authentication"]["pub_key"] == PUBLIC


async def test_an_endpoint_in_a_private_place_is_called_only_where_the_operator_allows_it(endpoint: Endpoint) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await Endpoints(allow_private=False).check(1, endpoint.url, "token")
    assert refused.value.code == "auth_token_refused"
    assert endpoint.asked == []
    await Endpoints(allow_private=True).check(1, endpoint.url, "token")
    assert len(endpoint.asked) == 1


async def test_an_endpoint_that_compresses_its_answer_refuses(site: Site, endpoint: Endpoint) -> None:
    await site.host(authentication={"endpoint": endpoint.url})
    endpoint.headers = b"Content-Encoding: gzip\r\n"
    assert_problem(await _try(site, "token"), 400, "auth_token_refused")


async def test_more_questions_than_an_endpoint_gets_at_once_wait_or_are_refused(
    site: Site, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pygrid.features.cycles.devices.ENDPOINT_WAIT_S", 0.1)
    await site.host(authentication={"endpoint": endpoint.url})
    endpoint.hang = True
    tries = [asyncio.create_task(_try(site, "anything")) for _ in range(5)]
    done, others = await asyncio.wait(tries, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert_problem(done.pop().result(), 503, "endpoints_busy")
    for answer in await asyncio.gather(*others):
        assert_problem(answer, 400, "auth_token_refused")
    assert len(endpoint.asked) == 4


@pytest.mark.parametrize(
    ("flood", "pause_s", "code"),
    [
        (b"Content-Length: 1000000000\r\n\r\n" + b"x" * 65_536, 0.0, "stranger_too_large"),
        (b"X-Header: " + b"x" * 65_536 + b"\r\n", 0.0, "stranger_unreachable"),
        (b"x", 0.02, "stranger_too_slow"),
    ],
)
async def test_an_endless_or_dribbling_endpoint_ends_at_one_deadline(
    site: Site,
    endpoint: Endpoint,
    flood: bytes,
    pause_s: float,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each read of a dribbling answer takes less than the deadline, so that only one over all of them ends it."""
    if pause_s:
        monkeypatch.setattr("pygrid.features.cycles.devices.ENDPOINT_TIMEOUT_S", 0.2)
    await site.host(authentication={"endpoint": endpoint.url})
    endpoint.flood, endpoint.pause_s = flood, pause_s
    problem = assert_problem(await _try(site, "token"), 400, "auth_token_refused")
    endpoint.flood = b""
    assert problem["error"] == "The 'auth_token' you sent did not pass 3rd party validation."
    assert "stranger" not in json.dumps(problem), "only the log has the reason"
    logged = [record for record in caplog.records if record.name == "pygrid.features.cycles.devices"]
    assert [record.__dict__["code"] for record in logged] == [code]


async def test_an_endpoint_leads_to_no_other_machine(
    site: Site, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a redirection, nor by a name: link-local addresses are refused also where private ones are allowed."""
    other = Endpoint()
    server = await asyncio.start_server(other.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await site.host(authentication={"endpoint": endpoint.url})
        endpoint.status, endpoint.headers = 307, b"Location: http://127.0.0.1:%d/check\r\n" % port
        assert_problem(await _try(site, "token"), 400, "auth_token_refused")
        assert other.asked == []

    async def resolve(*_: Any, **__: Any) -> Any:
        return [(0, 0, 0, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    with pytest.raises(Unauthenticated):
        await Endpoints(allow_private=True).check(1, "http://metadata.example/", "token")


async def test_a_slow_endpoint_keeps_no_other_process_waiting(
    site: Site, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.host(authentication={"endpoint": endpoint.url})
    quick = Endpoint()
    server = await asyncio.start_server(quick.answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/check"
        await site.host(name="quick", authentication={"endpoint": url})
        endpoint.hang = True
        slow = [asyncio.create_task(_try(site, "anything")) for _ in range(8)]
        await eventually(lambda: len(endpoint.asked) >= 4)
        message = {"model_name": "quick", "auth_token": "token"}
        assert (await site.web.post("/model-centric/authenticate", json=message)).status_code == 200
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
