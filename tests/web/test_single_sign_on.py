"""Sign-in by a real OpenID Connect provider, and sign-in of a command by the browser.

Should happen: a person with a verified e-mail and a role gets an account; one with an account or an invitation gets
that one; an Owner confirms with the password, once; the provider's groups decide on roles at each sign-in.
Should not happen: an answer works twice, in another browser, or from another provider; a link leads to another site;
another site begins or finishes a sign-in; an unverified e-mail opens an account; an Owner's account is taken over or
loses its role; a disconnected account is opened or connected by a sign-in; a code of a command works twice or for
another command.
"""

from __future__ import annotations

import http.cookies
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock, SystemClock
from pygrid.domain import build_domain
from pygrid.errors import InvalidConfig
from pygrid.features.accounts.browser_login import challenge_of
from pygrid.settings import load_settings
from pygrid.storage.audit import list_entries
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.console import Page
from support.oidc_provider import CLIENT_ID, CLIENT_SECRET, running_provider, sign_in_there
from support.web import PASSWORD, People, running

CALLBACK = "http://localhost/admin/oidc/callback"
NAMED = ("owner", "ann", "bob", "carl", "dora", "eve", "fay", "gus")


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with running_provider([CALLBACK]) as found:
        yield found


@pytest.fixture
async def app(issuer: str, tmp_path: Path) -> Litestar:
    settings = load_settings(
        {},
        data_dir=tmp_path,
        id="test",
        open_signup=False,
        oidc_issuer=issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
        oidc_name="Example Login",
        oidc_scopes="openid email groups",
    )
    return build_domain(settings, clock=SystemClock())


@pytest.fixture
async def web(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as client:
        await People(client).owner()
        yield client


class Tab:
    """A browser with its own cookies."""

    def __init__(self, web: httpx.AsyncClient) -> None:
        self._web = web
        self.cookies: dict[str, str] = {}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self._send("GET", path, headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        return await self._send("POST", path, {"Sec-Fetch-Site": "same-origin", **headers}, data=fields)

    async def begin(self, next: str = "/admin/") -> str:
        """Press the button; returns the address of the provider's page."""
        answer = await self.get(f"/admin/oidc/start?{urlencode({'next': next})}")
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def sign_in(self, login: str, next: str = "/admin/") -> httpx.Response:
        """Sign in by the provider; returns what the app answers at the end."""
        back = sign_in_there(await self.begin(next), login)
        assert back.startswith(CALLBACK), back
        return await self.get(back)

    async def begin_connection(self) -> str:
        """Press "Connect" on the page of the account; returns the address of the provider's page."""
        page = Page.read(await self.post("/admin/me/connect", {"act": "connect"}))
        found = [one["href"] for one in page.find("a") if one["href"].startswith("/admin/oidc/")]
        assert len(found) == 1, page.text
        return (await self.get(found[0])).headers["location"]

    async def connect(self, login: str) -> httpx.Response:
        """Connect the account of the session; returns what the app answers at the end."""
        return await self.get(sign_in_there(await self.begin_connection(), login))

    @property
    def begun(self) -> str:
        """The cookie of a sign-in that has begun."""
        return next(value for name, value in self.cookies.items() if name.endswith("_oidc"))

    async def email(self) -> str:
        """The account of the session; empty without one."""
        answer = await self.get("/admin/me")
        return "" if answer.status_code == 303 else next(n for n in NAMED if f"{n}@example.org" in answer.text)

    async def _send(self, method: str, path: str, headers: dict[str, str], **more: Any) -> httpx.Response:
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()), **headers}
        answer = await self._web.request(method, path, headers=sent, follow_redirects=False, **more)
        for given in answer.headers.get_list("set-cookie"):
            for morsel in http.cookies.SimpleCookie(given).values():
                self.cookies[morsel.key] = morsel.value
                assert morsel["httponly"]
                assert morsel["samesite"] == "lax"
        return answer


def problem(answer: httpx.Response, status: int, code: str) -> None:
    page = Page.read(answer)
    assert (answer.status_code, f"Code {code}" in page.text) == (status, True), page.text


async def _invite(web: httpx.AsyncClient, email: str, role: int = 1) -> None:
    owner = await People(web).log_in("owner@example.org")
    answer = await web.post("/users/invitations", json={"email": email, "role": role}, headers=owner)
    assert answer.status_code == 201, answer.text


async def _role(web: httpx.AsyncClient, email: str) -> str | None:
    owner = await People(web).log_in("owner@example.org")
    users = (await web.get("/users", headers=owner)).json()["users"]
    return next((user["role"]["name"] for user in users if user["email"] == email), None)


def _actions(app: Litestar) -> list[str]:
    entries = service(app.state, Database).read_now(list_entries)
    return [entry.action for entry in entries]


# Accounts


async def test_an_invited_person_signs_in_and_stays_the_same_account(web: httpx.AsyncClient, app: Litestar) -> None:
    page = Page.read(await Tab(web).get("/admin/login?next=/admin/jobs"))
    assert "Sign in with Example Login" in page.text
    assert page.find("a", href="/admin/oidc/start?next=/admin/jobs")
    await _invite(web, "bob@example.org", role=2)
    tab = Tab(web)
    answer = await tab.sign_in("bob", "/admin/jobs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/jobs")
    assert await tab.email() == "bob"
    assert await _role(web, "bob@example.org") == "Compliance Officer"
    again = Tab(web)
    assert (await again.sign_in("bob")).status_code == 303
    assert await again.email() == "bob"
    assert [name for name in _actions(app) if name != "user_logged_in"][-3:] == [
        "user_invited", "user_signed_up", "user_connected",
    ]  # fmt: skip
    # Nobody knows a password of this account.
    assert (await web.post("/users/login", json={"email": "bob@example.org", "password": ""})).status_code == 403


async def test_strangers_get_no_account(web: httpx.AsyncClient) -> None:
    problem(await Tab(web).sign_in("eve"), 403, "oidc_no_account")
    await _invite(web, "unverified-eve@example.org", role=3)
    problem(await Tab(web).sign_in("unverified-eve"), 403, "oidc_email_unverified")
    assert await _role(web, "eve@example.org") is None
    assert await _role(web, "unverified-eve@example.org") is None


async def test_what_opened_an_account_of_the_same_address_ends(web: httpx.AsyncClient) -> None:
    owner = await People(web).log_in("owner@example.org")
    made = {"email": "Carl@example.org", "password": PASSWORD, "role": 1}
    assert (await web.post("/users", json=made, headers=owner)).status_code == 200
    before = await People(web).log_in("carl@example.org")
    token = (await web.post("/users/me/tokens", json={"name": "t"}, headers=before)).json()["token"]
    tab = Tab(web)
    assert (await tab.sign_in("carl")).status_code == 303
    assert (await tab.get("/admin/")).status_code == 200
    for headers in (before, {"Authorization": f"Bearer {token}"}):
        assert (await web.get("/users/me", headers=headers)).status_code == 403
    login = {"email": "carl@example.org", "password": PASSWORD}
    assert (await web.post("/users/login", json=login)).status_code == 403


async def test_an_account_stays_with_its_person_when_the_e_mail_changes_hands(web: httpx.AsyncClient) -> None:
    await _invite(web, "bob@example.org")
    bob, new = Tab(web), Tab(web)
    await bob.sign_in("bob")
    problem(await new.sign_in("newcomer=bob"), 409, "oidc_identity_taken")
    assert await new.email() == ""
    assert await bob.email() == "bob", "the session goes on"
    assert (await Tab(web).sign_in("bob")).status_code == 303
    # Without that account, the new person is as any other.
    owner = await People(web).log_in("owner@example.org")
    assert (await web.delete("/users/2", headers=owner)).status_code == 200
    assert await bob.email() == ""
    problem(await new.sign_in("newcomer=bob"), 403, "oidc_no_account")
    await _invite(web, "bob@example.org", role=2)
    assert (await new.sign_in("newcomer=bob")).status_code == 303
    assert await _role(web, "bob@example.org") == "Compliance Officer"


async def test_an_owner_is_connected_by_the_password_alone(web: httpx.AsyncClient, app: Litestar) -> None:
    tab = Tab(web)
    page = Page.read(await tab.sign_in("owner", "/admin/jobs"))
    assert "has power over other accounts" in page.text
    assert await tab.email() == ""
    (secret,) = (found["value"] for found in page.find("input", name="secret"))
    for other in ("", "0" * 64, secret[:-4] + "AAA=", tab.begun):
        problem(
            await tab.post("/admin/oidc/confirm", {"secret": other, "password": PASSWORD}), 403, "oidc_state_invalid"
        )
    wrong = await tab.post("/admin/oidc/confirm", {"secret": secret, "password": "wrong", "email": "owner@example.org"})
    problem(wrong, 401, "invalid_credentials")
    answer = await tab.post("/admin/oidc/confirm", {"secret": secret, "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/jobs")
    again = Tab(web)
    assert (await again.sign_in("owner")).status_code == 303
    assert await again.email() == "owner"
    assert await _role(web, "owner@example.org") == "Owner"  # and the password works
    assert _actions(app).count("user_connected") == 1


# Disconnecting


async def _owner_tab(web: httpx.AsyncClient) -> Tab:
    tab = Tab(web)
    assert (await tab.post("/admin/login", {"email": "owner@example.org", "password": PASSWORD})).status_code == 303
    return tab


async def test_an_administrator_disconnects_an_account(web: httpx.AsyncClient, app: Litestar) -> None:
    await _invite(web, "bob@example.org")
    bob, owner = Tab(web), await _owner_tab(web)
    await bob.sign_in("bob")
    assert "connected with" in Page.read(await bob.get("/admin/me")).text
    # Nobody knows a password of this account, so bob would lose it.
    problem(await bob.post("/admin/me/disconnect", {"password": PASSWORD}), 401, "invalid_credentials")
    assert await bob.email() == "bob"
    assert (await bob.post("/admin/people/1/disconnect", {"act": "disconnect"})).status_code == 403
    assert "Connected with" in Page.read(await owner.get("/admin/people/2")).text
    assert (await owner.post("/admin/people/2/disconnect", {"act": "disconnect"})).headers[
        "location"
    ] == "/admin/people/2"
    assert await bob.email() == "", "the session has ended"
    assert "Connected with" not in Page.read(await owner.get("/admin/people/2")).text
    problem(await owner.post("/admin/people/2/disconnect", {"act": "disconnect"}), 404, "oidc_not_connected")
    entry = service(app.state, Database).read_now(list_entries)[-1]
    assert (entry.action, entry.actor, entry.data["user_id"]) == ("user_disconnected", 1, 2)
    assert set(entry.data) == {"user_id", "issuer", "subject"}
    assert "disconnected account bob@example.org from" in Page.read(await owner.get("/admin/audit")).text
    # The provider opens the account no more, so bob needs a link for a password, and connects it himself.
    problem(await bob.sign_in("bob"), 403, "oidc_disconnected")
    assert await bob.email() == ""
    made = await web.post("/users/2/password-reset", json={}, headers=await People(web).log_in("owner@example.org"))
    assert made.status_code == 201, made.text
    reset = {"code": made.json()["code"], "password": PASSWORD}
    assert (await bob.post(f"/admin/recover/{reset['code']}", {"password": PASSWORD})).status_code == 303
    problem(await Tab(web).sign_in("bob"), 403, "oidc_disconnected")
    answer = await bob.connect("bob")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/me")
    again = Tab(web)
    assert (await again.sign_in("bob")).status_code == 303
    assert await again.email() == "bob"


async def test_a_disconnected_account_keeps_its_password(web: httpx.AsyncClient, app: Litestar) -> None:
    """For an account without power over others, whose first connection ends its password."""
    await _invite(web, "bob@example.org")
    bob = Tab(web)
    await bob.sign_in("bob")
    await (owner := await _owner_tab(web)).post("/admin/people/2/disconnect", {"act": "disconnect"})
    made = await web.post("/users/2/password-reset", json={}, headers=await People(web).log_in("owner@example.org"))
    await bob.post(f"/admin/recover/{made.json()['code']}", {"password": PASSWORD})
    token = await web.post("/users/me/tokens", json={"name": "t"}, headers=await People(web).log_in("bob@example.org"))
    headers = {"Authorization": f"Bearer {token.json()['token']}"}
    before = _actions(app).count("user_connected")
    for _ in range(2):
        page = Page.read(await Tab(web).sign_in("bob"))
        assert "sign in with the password, and connect it again under Your account" in page.text
    assert _actions(app).count("user_connected") == before
    assert (await web.get("/users/me", headers=headers)).status_code == 200
    assert await bob.email() == "bob", "the session goes on"
    assert (await People(web).log_in("bob@example.org"))["Authorization"], "the password is the same"
    # Connecting keeps both.
    assert (await bob.connect("bob")).status_code == 303
    assert (await web.get("/users/me", headers=headers)).status_code == 200
    assert (await People(web).log_in("bob@example.org"))["Authorization"]
    assert "Connected with" in Page.read(await owner.get("/admin/people/2")).text


async def test_only_the_signed_in_person_connects(web: httpx.AsyncClient) -> None:
    await _invite(web, "bob@example.org")
    bob, owner = Tab(web), await _owner_tab(web)
    await bob.sign_in("bob")
    # The person at the provider opens another account.
    problem(await owner.connect("bob"), 409, "oidc_identity_taken")
    # The session has ended, or is another person's, when the provider answers.
    for signs_out in (True, False):
        tab = await _owner_tab(web)
        back = sign_in_there(await tab.begin_connection(), "owner")
        if signs_out:
            await tab.post("/admin/logout", {})
        else:
            tab.cookies.update({name: value for name, value in bob.cookies.items() if not name.endswith("_oidc")})
        problem(await tab.get(back), 403, "oidc_state_invalid")
    assert "not connected with Example Login" in Page.read(await owner.get("/admin/me")).text
    assert (await Tab(web).post("/admin/me/connect", {"act": "connect"})).status_code == 401
    foreign = await owner.post("/admin/me/connect", {"act": "connect"}, **{"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    # With another e-mail than that of the account, as the person has both.
    assert (await owner.connect("gus")).status_code == 303
    gus = Tab(web)
    assert (await gus.sign_in("gus")).status_code == 303
    assert await gus.email() == "owner"


async def test_connecting_needs_a_password_that_was_typed_recently(tmp_path: Path, issuer: str) -> None:
    clock = ManualClock()
    settings = load_settings({}, data_dir=tmp_path, oidc_issuer=issuer, oidc_client_id=CLIENT_ID)
    async with running(build_domain(settings, clock=clock)) as web:
        await People(web).owner()
        tab = await _owner_tab(web)
        clock.advance(16 * 60)
        page = Page.read(await tab.post("/admin/me/connect", {"act": "connect"}))
        assert "Go on to" not in page.text
        early = await tab.get("/admin/oidc/start?connect=1")
        assert early.headers["location"] == "/admin/me"
        wrong = Page.read(await tab.post("/admin/me/connect", {"confirm_password": "wrong"}))
        assert "Go on to" not in wrong.text
        right = Page.read(await tab.post("/admin/me/connect", {"confirm_password": PASSWORD}))
        assert "Go on to" in right.text


async def test_a_confirmation_that_waits_connects_no_disconnected_account(web: httpx.AsyncClient) -> None:
    first, late = Tab(web), Tab(web)
    secrets = []
    for tab in (first, late):
        (field,) = Page.read(await tab.sign_in("owner")).find("input", name="secret")
        secrets.append(field["value"])
    await first.post("/admin/oidc/confirm", {"secret": secrets[0], "password": PASSWORD})
    await first.post("/admin/me/disconnect", {"password": PASSWORD})
    answer = await late.post("/admin/oidc/confirm", {"secret": secrets[1], "password": PASSWORD})
    problem(answer, 403, "oidc_disconnected")


async def test_a_person_disconnects_their_account_by_its_password(web: httpx.AsyncClient, app: Litestar) -> None:
    tab = Tab(web)
    (secret,) = (found["value"] for found in Page.read(await tab.sign_in("owner")).find("input", name="secret"))
    assert (await tab.post("/admin/oidc/confirm", {"secret": secret, "password": PASSWORD})).status_code == 303
    other = await _owner_tab(web)
    # A session alone is not enough, and the page of other people is not for the own account.
    problem(await tab.post("/admin/me/disconnect", {"password": "wrong"}), 401, "invalid_credentials")
    problem(await tab.post("/admin/people/1/disconnect", {"act": "disconnect"}), 403, "not_permitted")
    assert _actions(app).count("user_disconnected") == 0
    assert (await tab.post("/admin/me/disconnect", {"password": PASSWORD})).headers["location"] == "/admin/me"
    assert await tab.email() == "owner"
    assert await other.email() == "", "the other sessions have ended"
    problem(await tab.post("/admin/me/disconnect", {"password": PASSWORD}), 404, "oidc_not_connected")
    problem(await Tab(web).sign_in("owner"), 403, "oidc_disconnected")
    assert (await tab.connect("owner")).status_code == 303
    again = Tab(web)
    assert (await again.sign_in("owner")).status_code == 303
    assert await again.email() == "owner"


async def test_an_account_above_the_own_role_stays_connected(web: httpx.AsyncClient, app: Litestar) -> None:
    tab, people = Tab(web), People(web)
    (secret,) = (found["value"] for found in Page.read(await tab.sign_in("owner")).find("input", name="secret"))
    await tab.post("/admin/oidc/confirm", {"secret": secret, "password": PASSWORD})
    made = {"email": "admin@example.org", "password": PASSWORD, "role": 3}
    answer = await web.post("/users", json=made, headers=await people.log_in("owner@example.org"))
    assert answer.status_code == 200, answer.text
    admin = Tab(web)
    await admin.post("/admin/login", {"email": "admin@example.org", "password": PASSWORD})
    assert "Connected with" not in Page.read(await admin.get("/admin/people/1")).text
    problem(await admin.post("/admin/people/1/disconnect", {"act": "disconnect"}), 403, "not_permitted")
    assert await tab.email() == "owner"


# Attacks


async def test_an_answer_works_once_and_in_its_browser(web: httpx.AsyncClient) -> None:
    await _invite(web, "bob@example.org")
    tab, victim = Tab(web), Tab(web)
    back = sign_in_there(await tab.begin(), "bob")
    # The attacker's answer in the browser of a victim, who has begun a sign-in as well, or has not.
    problem(await victim.get(back), 403, "oidc_state_invalid")
    await victim.begin()
    problem(await victim.get(back), 403, "oidc_state_invalid")
    assert await victim.email() == ""
    kept = dict(tab.cookies)
    assert (await tab.get(back)).status_code == 303
    assert not tab.begun
    problem(await tab.get(back), 403, "oidc_state_invalid")
    tab.cookies = kept
    problem(await tab.get(back), 403, "oidc_answer_invalid")  # the provider refuses the code


async def test_changed_answers_are_refused(web: httpx.AsyncClient) -> None:
    await _invite(web, "bob@example.org")
    for change, code in (
        ({"state": "0" * 64}, "oidc_state_invalid"),
        ({"state": ""}, "oidc_state_invalid"),
        ({"iss": "https://evil.example"}, "oidc_answer_invalid"),
        ({"iss": ""}, "oidc_answer_invalid"),
        ({"code": "stolen"}, "oidc_answer_invalid"),
        ({"code": ""}, "oidc_refused"),
    ):
        tab = Tab(web)
        back = sign_in_there(await tab.begin(), "bob")
        query = {**dict(parse_qsl(urlsplit(back).query)), **change}
        problem(await tab.get(f"/admin/oidc/callback?{urlencode(query)}"), 403, code)
        assert await tab.email() == ""


async def test_a_code_of_another_sign_in_is_refused(web: httpx.AsyncClient) -> None:
    """PKCE and the nonce belong to the browser that began."""
    await _invite(web, "bob@example.org")
    attacker, victim = Tab(web), Tab(web)
    stolen = dict(parse_qsl(urlsplit(sign_in_there(await victim.begin(), "bob")).query))
    begun = dict(parse_qsl(urlsplit(await attacker.begin()).query))
    query = urlencode({**stolen, "state": begun["state"]})
    problem(await attacker.get(f"/admin/oidc/callback?{query}"), 403, "oidc_answer_invalid")


@pytest.mark.parametrize(
    "given", ["https://evil.example/", "//evil.example", "/admin/../users", "/\\evil.example", "javascript:1"]
)
async def test_no_link_leads_elsewhere(web: httpx.AsyncClient, given: str) -> None:
    await _invite(web, "bob@example.org")
    assert (await Tab(web).sign_in("bob", given)).headers["location"] == "/admin/"


async def test_other_sites_begin_nothing(web: httpx.AsyncClient) -> None:
    tab = Tab(web)
    assert (await tab.get("/admin/oidc/start", **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
    answer = await tab.post("/admin/oidc/confirm", {"secret": "x"}, **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert tab.cookies == {}


async def test_a_provider_that_is_down_is_an_outage(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path, oidc_issuer="http://127.0.0.1:9", oidc_client_id="x")
    async with running(build_domain(settings, clock=ManualClock())) as web:
        await People(web).owner()
        problem(await Tab(web).get("/admin/oidc/start"), 503, "oidc_unreachable")
        assert (await Tab(web).get("/admin/login")).status_code == 200


# Roles


async def test_the_groups_of_the_provider_decide(tmp_path: Path, issuer: str) -> None:
    settings = load_settings(
        {},
        data_dir=tmp_path,
        oidc_issuer=issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
        oidc_scopes="openid email groups",
        oidc_role_claim="groups",
        oidc_roles="heads=Administrator; staff=User; gone=No such role",
    )
    async with running(build_domain(settings, clock=SystemClock())) as web:
        # Nobody becomes the first account by a provider.
        problem(await Tab(web).sign_in("dora:heads"), 403, "oidc_no_account")
        await People(web).owner()
        dora = Tab(web)
        assert (await dora.sign_in("dora:heads,staff")).status_code == 303
        assert await _role(web, "dora@example.org") == "Administrator"
        assert (await Tab(web).sign_in("dora:staff")).status_code == 303
        assert await _role(web, "dora@example.org") == "User"
        assert await dora.email() == ""  # a change of the role has ended the session
        problem(await Tab(web).sign_in("dora"), 403, "oidc_no_account")
        problem(await Tab(web).sign_in("dora:gone"), 403, "oidc_no_account")
        # An Owner who is connected stays Owner.
        tab = Tab(web)
        (secret,) = (
            found["value"] for found in Page.read(await tab.sign_in("owner:staff")).find("input", name="secret")
        )
        assert (await tab.post("/admin/oidc/confirm", {"secret": secret, "password": PASSWORD})).status_code == 303
        assert (await Tab(web).sign_in("owner:staff")).status_code == 303
        assert await _role(web, "owner@example.org") == "Owner"


async def test_a_removed_person_and_a_removed_mapping(tmp_path: Path, issuer: str) -> None:
    given = {"data_dir": tmp_path, "oidc_issuer": issuer, "oidc_client_id": CLIENT_ID}
    given |= {"oidc_client_secret": CLIENT_SECRET, "oidc_scopes": "openid email groups"}
    mapped = load_settings({}, **given, oidc_role_claim="groups", oidc_roles="heads=Administrator")
    async with running(build_domain(mapped, clock=SystemClock())) as web:
        await People(web).owner()
        assert (await Tab(web).sign_in("dora:heads")).status_code == 303
        owner = await People(web).log_in("owner@example.org")
        (dora,) = (u["id"] for u in (await web.get("/users", headers=owner)).json()["users"] if "dora" in u["email"])
        assert (await web.delete(f"/users/{dora}", headers=owner)).status_code == 200
        # The groups still lead to a role, so the person gets another account.
        assert (await Tab(web).sign_in("dora:heads")).status_code == 303
        users = (await web.get("/users", headers=owner)).json()["users"]
        assert dora not in {user["id"] for user in users}
        begun = Tab(web)
        back = sign_in_there(await begun.begin(), "dora:heads")
    async with running(build_domain(load_settings({}, **given), clock=SystemClock())) as web:
        # What has begun goes on after a restart, or at another replica.
        continued = Tab(web)
        continued.cookies = begun.cookies
        assert (await continued.get(back)).status_code == 303
        assert (await Tab(web).sign_in("dora")).status_code == 303
        assert await _role(web, "dora@example.org") == "Administrator", "roles are assigned here again"
        problem(await Tab(web).sign_in("eve:heads"), 403, "oidc_no_account")


# Settings


@pytest.mark.parametrize(
    "given",
    [
        {"oidc_issuer": "http://login.example"},
        {"oidc_issuer": "https://user@login.example"},
        {"oidc_issuer": "https://login.example?x=1"},
        {"oidc_issuer": "login.example"},
        {"oidc_client_id": ""},
        {"oidc_scopes": "email"},
        {"oidc_roles": "staff=User"},
        {"oidc_role_claim": "groups"},
        {"oidc_role_claim": "groups", "oidc_roles": "staff"},
        {"oidc_issuer": ""},
        {"host": "0.0.0.0", "secret_key": "s" * 32},
    ],
)
def test_settings_that_do_not_fit_are_named(given: dict[str, Any]) -> None:
    good = {"oidc_issuer": "https://login.example/realm", "oidc_client_id": "pygrid"}
    load_settings({}, **good)
    with pytest.raises(InvalidConfig):
        load_settings({}, **{**good, **given})


async def test_without_a_provider_nothing_is_offered(tmp_path: Path) -> None:
    async with running(build_domain(load_settings({}, data_dir=tmp_path), clock=ManualClock())) as web:
        await People(web).owner()
        tab = Tab(web)
        assert "Sign in with" not in (await tab.get("/admin/login")).text
        problem(await tab.get("/admin/oidc/start"), 404, "oidc_not_configured")
        problem(await tab.get("/admin/oidc/callback?state=a&code=b"), 404, "oidc_not_configured")


# Sign-in of a command


async def _tab_of_owner(web: httpx.AsyncClient) -> Tab:
    tab = Tab(web)
    answer = await tab.post("/admin/login", {"email": "owner@example.org", "password": PASSWORD})
    assert answer.status_code == 303
    return tab


async def test_a_command_logs_in_by_the_browser(tmp_path: Path) -> None:
    clock = ManualClock()
    app = build_domain(load_settings({}, data_dir=tmp_path, id="test"), clock=clock)
    async with running(app) as web:
        await People(web).owner()
        right = "v" * 43
        where = f"/admin/terminal?challenge={challenge_of(right)}"
        assert (await Tab(web).get(where)).headers["location"].startswith("/admin/login?next=/admin/terminal")
        tab = await _tab_of_owner(web)
        page = Page.read(await tab.get(where))
        assert "owner@example.org" in page.text
        (challenge,) = (found["value"] for found in page.find("input", name="challenge"))

        async def code() -> str:
            answer = await tab.post("/admin/terminal", {"challenge": challenge})
            return answer.text.partition('id="code">')[2].partition("<")[0]

        async def redeem(code: str, verifier: str) -> httpx.Response:
            return await web.post("/users/login/code", json={"code": code, "verifier": verifier})

        first = await code()
        answer = await redeem(first, right)
        assert answer.status_code == 200, answer.text
        me = await web.get("/users/me", headers={"Authorization": f"Bearer {answer.json()['token']}"})
        assert me.json()["user"]["email"] == "owner@example.org"
        # Used; of another command; wrong; late; after the session of the console has ended.
        assert (await redeem(first, right)).json()["code"] == "code_not_valid"
        second = await code()
        assert (await redeem(second, "x" * 43)).json()["code"] == "code_not_valid"
        assert (await redeem(second, right)).json()["code"] == "code_not_valid"
        third = await code()
        clock.advance(301)
        assert (await redeem(third, right)).json()["code"] == "code_not_valid"
        fourth = await code()
        await tab.post("/admin/logout", {})
        assert (await redeem(fourth, right)).json()["code"] == "code_not_valid"


async def test_a_page_for_a_command_needs_a_challenge_and_its_own_site(web: httpx.AsyncClient) -> None:
    tab = await _tab_of_owner(web)
    problem(await tab.get("/admin/terminal?challenge=short"), 400, "invalid_challenge")
    problem(await tab.post("/admin/terminal", {"challenge": "<b>"}), 400, "invalid_challenge")
    foreign = await tab.post("/admin/terminal", {"challenge": "A" * 43}, **{"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
