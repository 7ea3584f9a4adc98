"""People in the console: invitations, roles, lost passwords, tokens, the audit log, settings, health.

Should happen: an invited person makes an account by a link; a change that is hard to take back asks for the password
again if the session is older than 15 minutes.
Should not happen: a link that changes something by itself, or works twice; a secret on a page.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings, load_settings
from pygrid.ui.sampling import Sampler
from pygrid.web.services import service
from support.console import Browser, Page
from support.jobs import Site, running_site
from support.web import PASSWORD, People, running

BOB = "bob@example.org"


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str = "owner") -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


def link_of(answer: httpx.Response, page: str) -> str:
    """The path of a one-time link on a page."""
    (path,) = re.findall(rf"http://[^/]+(/admin/{page}/[a-z0-9-]+)", answer.text)
    return str(path)


async def test_an_invited_person_makes_an_account_by_a_link(site: Site) -> None:
    ann, bob = await browser(site), Browser(site.web)
    assert (await ann.post("/admin/people/invite", {"email": "no address"})).status_code == 400
    link = link_of(await ann.post("/admin/people/invite", {"email": BOB, "role": "1"}), "join")
    assert BOB in (await ann.page("/admin/people")).text
    assert link not in (await ann.get("/admin/people")).text, "the link is shown once"
    await bob.page(link)
    assert (await bob.post(link, {"password": "short"})).status_code == 400
    assert (await bob.post(link, {"password": PASSWORD})).status_code == 303
    assert "bob@example.org" in (await bob.page("/admin/me")).text
    again = await Browser(site.web).post(link, {"password": PASSWORD})
    assert (again.status_code, "code_not_valid" in again.text) == (403, True)
    other = await ann.post("/admin/people/invite", {"email": "eve@example.org", "role": "1"})
    page = Page.read(other)
    (withdraw,) = [one["action"] for one in page.find("form") if one.get("action", "").endswith("/withdraw")]
    assert (await ann.post(withdraw)).status_code == 303
    assert (await Browser(site.web).post(link_of(other, "join"), {"password": PASSWORD})).status_code == 403


async def test_a_person_gets_another_role_a_new_password_and_is_deleted(site: Site) -> None:
    ann, bob = await browser(site), await browser(site, "stranger")
    me = (await site.stranger.call("GET", "/users/me")).json()["user"]["id"]
    path = f"/admin/people/{me}"
    assert "stranger@example.org" in (await ann.page("/admin/people?text=STRANGER")).text
    assert "owner@example.org (" in (await ann.page("/admin/people?text=stranger")).text.replace("( ", "(")
    reset = link_of(await ann.post(f"{path}/reset", {"act": "make"}), "recover")
    assert (await bob.get("/admin/me")).status_code == 200, "the old password stays until the link is used"
    assert (await bob.post(reset, {"password": "another " + PASSWORD})).status_code == 303
    assert (await ann.post(f"{path}/role", {"role": "2"})).status_code == 303
    assert (await ann.post(f"{path}/role", {"role": "77"})).status_code == 404
    assert (await ann.post(f"{path}/delete", {"email": "wrong"})).status_code == 400
    assert (await ann.post(f"{path}/delete", {"email": "stranger@example.org"})).status_code == 303
    assert (await ann.get(path)).status_code == 404
    mine = (await site.owner.call("GET", "/users/me")).json()["user"]["id"]
    last = await ann.post(f"/admin/people/{mine}/delete", {"email": "owner@example.org"})
    assert (last.status_code, "last_owner" in last.text) == (403, True)


async def test_roles_are_made_changed_and_deleted(site: Site) -> None:
    ann = await browser(site)
    made = {"act": "make", "name": "Steward", "may_can_upload_data": "1"}
    assert (await ann.post("/admin/roles", made)).status_code == 303
    page = await ann.page("/admin/roles")
    (number,) = [
        one["value"]
        for one in page.find("input", name="role")
        if f'value="{one["value"]}"' in page.html and one["value"] not in ("2", "3", "5")
    ][-1:]
    changed = {"act": "save", "role": number, "name": "Keeper", "may_can_host_models": "1"}
    assert (await ann.post("/admin/roles", changed)).status_code == 303
    assert "Keeper" in (await ann.page("/admin/roles")).text
    assert (await ann.post("/admin/roles", {"act": "save", "role": "1", "name": "User"})).status_code == 403
    assert (await ann.post("/admin/roles", {"act": "delete", "role": number, "name": "Keeper"})).status_code == 303


async def test_sessions_say_where_they_come_from(site: Site) -> None:
    agents = (
        "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0",
        "<script>alert(1)</script>" + "x" * 500,
        "curl/8.5.0",
    )
    for agent in agents:
        fields = {"email": "owner@example.org", "password": PASSWORD}
        assert (await Browser(site.web).post("/admin/login", fields, **{"User-Agent": agent})).status_code == 303
    page = await (await browser(site)).page("/admin/me")
    for words in ("Firefox on Windows", "curl", "python-httpx", "unknown"):
        assert words in page.text
    assert "alert(1)" not in page.html


async def test_tokens_and_sessions_are_the_own_ones(site: Site) -> None:
    ann, bob = await browser(site), await browser(site, "scientist")
    made = await ann.post("/admin/me/tokens", {"name": "script", "scope": "read", "days": "7"})
    (token,) = re.findall(r"pgt_[\w-]{20,}", made.text)
    assert token not in (await ann.get("/admin/me")).text
    headers = {"Authorization": f"Bearer {token}"}
    assert (await site.web.get("/data-centric/datasets", headers=headers)).status_code == 200
    (revoke,) = re.findall(r"/admin/me/tokens/\d+/revoke", (await ann.page("/admin/me")).html)
    assert (await bob.post(revoke)).status_code == 404
    assert (await ann.post(revoke)).status_code == 303
    assert (await site.web.get("/data-centric/datasets", headers=headers)).status_code == 401
    other = await browser(site)
    ends = re.findall(r"/admin/me/sessions/\w+/end", (await ann.page("/admin/me")).html)
    assert len(ends) == 2, "the session of the API, and the other browser"
    assert [(await bob.post(one)).status_code for one in ends] == [404, 404]
    for one in ends:
        assert (await ann.post(one)).status_code == 303
    assert (await other.get("/admin/me")).status_code == 303
    wrong = {"password": "wrong", "new_password": "another " + PASSWORD}
    assert (await ann.post("/admin/me/password", wrong)).status_code == 401
    assert (await ann.post("/admin/me/password", {**wrong, "password": PASSWORD})).status_code == 303
    assert (await ann.get("/admin/me")).status_code == 200


async def test_what_is_hard_to_take_back_needs_a_password_that_was_typed_recently(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = load_settings({}, data_dir=tmp_path / "d")
    async with running(build_domain(settings, clock=clock)) as web:
        people = People(web)
        await people.with_role(1, await people.owner(), BOB)
        ann = await Browser(web).sign_in("owner@example.org")
        fields = {"name": "script", "scope": "read"}
        clock.advance(14 * 60)
        assert "pgt_" in (await ann.post("/admin/me/tokens", {**fields, "name": "first"})).text
        clock.advance(2 * 60)
        taken_over = await ann.post("/admin/people/2/reset", {"act": "make"})
        assert (taken_over.status_code, "/admin/recover/" in taken_over.text) == (401, False)
        asked = await ann.post("/admin/me/tokens", fields)
        assert (asked.status_code, "pgt_" in asked.text.replace('token="pgt_', "")) == (401, False)
        page = Page.read(asked)
        assert page.find("input", type="hidden", name="name", value="script"), "what was typed is sent again"
        assert (await ann.post("/admin/me/tokens", {**fields, "confirm_password": "wrong"})).status_code == 401
        before = ann.cookie
        done = await ann.post("/admin/me/tokens", {**fields, "confirm_password": PASSWORD})
        assert done.status_code == 200, done.text
        assert ann.cookie != before, "a new session begins with the password"
        old = Browser(web)
        old.cookie = before
        assert (await old.get("/admin/")).status_code == 303
        clock.advance(16 * 60)
        refused = await ann.post("/admin/people/2/role", {"role": "77", "confirm_password": PASSWORD})
        assert refused.status_code == 404
        assert (await ann.get("/admin/")).status_code == 200, "a refusal after the password ends no session"


async def _look_at_the_health(site: Site, ann: Browser) -> None:
    for now in (1e9, 1e9 + 5, 1e9 + 70):
        service(site.app.state, Sampler).sample(now, 0.0)
    page = await ann.page("/admin/health")
    assert "The app is ready" in page.text
    charts = {one["data-chart"] for one in page.find("div", role="img")}
    assert len(charts) >= 5, charts
    assert "Time to answer, in milliseconds : median" in page.text
    assert page.find("section", **{"data-topic": "health", "data-part": "state"})
    day = await ann.page("/admin/health?hours=24")
    assert day.find("a", href="/admin/health?hours=24", **{"aria-current": "page"})
    assert (await ann.page("/admin/health?hours=x")).find("a", href="/admin/health", **{"aria-current": "page"})


async def test_the_log_the_settings_and_the_health_of_an_app_are_shown(site: Site) -> None:
    ann, bob = await browser(site), await browser(site, "scientist")
    await site.owner.upload()
    log = await ann.page("/admin/audit")
    assert "owner@example.org stored dataset" in log.text
    await _filter_the_log(ann)
    assert "entries are unmodified" in (await ann.post("/admin/audit/verify")).text
    settings = await ann.page("/admin/settings")
    assert "PYGRID_REVIEW_GROUPS" in settings.text
    secret = settings.html
    assert "SECRET_KEY" in secret
    assert not re.search(r"[0-9a-f]{64}", secret), "a secret is shown as set"
    assert "signed in" in log.text
    (lately,) = re.findall(r'<section id="lately".*?</section>', (await ann.page("/admin/")).html, re.DOTALL)
    assert "stored dataset" in lately
    assert "signed in" not in lately, "what follows from other acts is in the log alone"
    await _look_at_the_health(site, ann)
    for path in ("/admin/audit", "/admin/settings", "/admin/health", "/admin/people", "/admin/roles"):
        page = await bob.page(path, 403)
        assert "lacks can_" in page.text or "needs a role" in page.text


async def _filter_the_log(ann: Browser) -> None:
    """Each filter finds the entry of the dataset, and leaves out others."""
    (row,) = (await ann.get("/admin/audit?format=json&action=dataset_uploaded")).json()
    assert row["about"] == "dataset 1"
    name = row["words"].partition("stored dataset ")[2]
    for query in (f"about={name}", "about=1", f"day={row['at'][:10]}", "person=OWNER@example.org"):
        assert f"stored dataset {name}" in (await ann.page(f"/admin/audit?{query}")).text, query
    assert "signed in" not in (await ann.page(f"/admin/audit?about={name}")).text
    others = ("action=user_logged_in", "person=scientist@example.org", "day=2001-01-01", "about=2", "about=00000000")
    for query in (*others, "person=nobody", "about=nothing", 'about="action"', "person=%25"):
        assert f"stored dataset {name}" not in (await ann.page(f"/admin/audit?{query}")).text, query
    for query in ("action=x%25", "day=yesterday", "day=2026-1-1"):
        page = await ann.page(f"/admin/audit?{query}", 400)
        assert page.find("div", role="alert"), query


async def test_an_operator_ends_the_sessions_of_a_person(site: Site) -> None:
    ann, bob, other = await browser(site), await browser(site, "scientist"), await browser(site, "scientist")
    officer = await browser(site, "officer")
    path = "/admin/people/2"
    assert "scientist@example.org" in (await ann.page(path)).text
    assert (await officer.post(f"{path}/sessions", {"act": "end"})).status_code == 403
    assert (await ann.post(f"{path}/sessions", {"act": "none"})).status_code == 400
    assert (await bob.get("/admin/")).status_code == 200
    ended = Page.read(await ann.post(f"{path}/sessions", {"act": "end"}))
    assert re.search(r"\d+ sessions ended\.", ended.text), ended.text
    for who in (bob, other):
        assert (await who.get("/admin/")).status_code == 303
    assert "ended sessions of account scientist@example.org" in (await ann.page("/admin/audit")).text
    again = Page.read(await ann.post(f"{path}/sessions", {"act": "end"}))
    assert "0 sessions ended." in again.text
    administrator = await site.people.with_role(3, site.owner.headers, "admin@example.org")
    assert administrator
    eve = await Browser(site.web).sign_in("admin@example.org")
    assert (await eve.post("/admin/people/1/sessions", {"act": "end"})).status_code == 403
    assert (await ann.get("/admin/")).status_code == 200


async def test_a_person_ends_all_other_sessions(site: Site) -> None:
    bob, other = await browser(site, "scientist"), await browser(site, "scientist")
    assert (await bob.page("/admin/me")).find("form", action="/admin/me/sessions/end")
    assert (await bob.post("/admin/me/sessions/end", {"act": "end"})).status_code == 303
    assert (await other.get("/admin/")).status_code == 303
    mine = await bob.page("/admin/me")
    assert not mine.find("form", action="/admin/me/sessions/end"), "this one is the last"


async def test_the_log_names_what_its_reader_may_see(site: Site) -> None:
    ann, officer = await browser(site), await browser(site, "officer")
    await site.owner.upload("patients")
    await site.owner.upload("secret plan", visibility="private")
    told = {name: (await who.page("/admin/audit")).text for name, who in (("ann", ann), ("officer", officer))}
    assert "stored dataset patients " in told["ann"]
    assert "stored dataset secret plan " in told["ann"]
    assert "stored dataset patients " in told["officer"]
    assert "stored dataset 2" in told["officer"]
    assert "secret" not in told["officer"]
    assert "secret" not in (await officer.get("/admin/audit?format=json")).text
    renamed = {"name": "patients of 2026", "description": "", "visibility": "listed"}
    assert (await ann.post("/admin/datasets/1/edit", renamed)).status_code == 303
    assert "stored dataset patients of 2026 " in (await ann.page("/admin/audit")).text
