"""The web console in process: sessions, origins, pages, decisions.

Should happen: each page works without scripts; a decision is bound to what the page showed; errors are pages.
Should not happen: code in a page; a text of somebody else that becomes markup; a request of another site that changes
something; a credential of the API that opens a page, or the other way round.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pygrid.domain import build_domain
from pygrid.features.accounts import sessions
from pygrid.network import build_network
from pygrid.settings import DomainSettings, load_network_settings, load_settings
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.setup_code import find_setup_code
from pygrid.ui.access import next_path
from pygrid.ui.console import CSP, Console
from pygrid.ui.render import FOLDER, Renderer, show_size, show_text, show_time
from pygrid.web.services import service
from support.console import Browser, Page
from support.jobs import DATASETS, MODEL, Site, npz, records, running_site
from support.training import config, form
from support.web import PASSWORD, People, running

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}
HOSTILE = "<script>alert(1)</script>\u202e\u2066 &amp; <b onclick=x>" + "x" * 3000


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str = "owner") -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


# Pages and their headers


PAGES = ("/admin/", "/admin/requests", "/admin/processes", "/admin/datasets", "/admin/jobs")


async def test_pages_have_a_strict_policy_and_no_code(site: Site) -> None:
    dataset = await site.owner.upload()
    process = await _host(site)
    job = await site.scientist.submit(dataset, "statistics", **COUNT)
    await site.owner.wait(job["id"], "waiting")
    ann = await browser(site)
    for path in (
        *PAGES,
        f"/admin/datasets/{dataset}",
        f"/admin/processes/{process}",
        f"/admin/jobs/{job['id']}",
        "/admin/nothing",
    ):
        answer = await ann.get(path)
        assert answer.status_code in (200, 404), path
        page = Page.read(answer)
        assert len(page.find("h1")) == 1, path
        assert page.find("html", lang="en")
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "set-cookie" not in answer.headers


async def test_static_files_are_kept_by_browsers_and_carry_no_cookie(site: Site) -> None:
    page = await Browser(site.web).page("/admin/login")
    names = [one["src"] for one in page.find("script")] + [one["href"] for one in page.find("link")]
    total = 0
    for name in names:
        answer = await site.web.get(name, headers={"Accept-Encoding": "identity"})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "set-cookie" not in answer.headers
        compressed = await site.web.get(name, headers={"Accept-Encoding": "gzip"})
        assert compressed.content == answer.content
        total += int(compressed.headers["content-length"])
    assert total <= 60_000, "the first visit loads all of them"
    assert (await site.web.get("/admin/static/admin.css")).status_code == 404


def test_templates_hold_no_code_and_mark_nothing_as_safe() -> None:
    for path in FOLDER.rglob("*.html"):
        text = path.read_text()
        assert not re.search(r"\sstyle=|\son\w+=|hx-on|javascript:|\|\s*safe\b", text), path
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), path
        assert not re.search(r"""(src|href)=["']https?:""", text), path


def test_every_template_compiles() -> None:
    """An app compiles a template when it first renders it."""
    templates = Renderer(lambda name: name)._templates
    names = [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.html")]
    assert len(names) > 10
    for name in names:
        templates.get_template(name)


async def test_each_page_warns_operators_of_an_old_database(site: Site) -> None:
    words = "is older than the exported head of its audit log"
    assert words not in (await (await browser(site)).page("/admin/jobs")).text
    service(site.app.state, AuditedWrites).is_rolled_back = True
    assert words in (await (await browser(site)).page("/admin/jobs")).text
    assert words not in (await (await browser(site, "scientist")).page("/admin/jobs")).text


async def test_a_part_of_a_page_is_sent_alone(site: Site) -> None:
    ann = await browser(site)
    answer = await ann.get("/admin/requests?part=rows")
    assert answer.status_code == 200
    assert answer.text.strip().startswith("<section")
    assert (await ann.get("/admin/requests?part=nothing")).status_code == 404


async def test_without_the_console_there_is_no_page(settings: DomainSettings) -> None:
    async with running(build_domain(dataclasses.replace(settings, admin=False))) as web:
        for path in ("/admin", "/admin/login", "/admin/static/admin.css"):
            assert (await web.get(path)).status_code == 404


# Sessions


async def test_a_cookie_is_for_pages_only_and_a_token_for_the_api_only(site: Site) -> None:
    ann = await browser(site)
    name, _, token = ann.cookie.partition("=")
    assert name == service(site.app.state, Console).cookie
    flags = {part.strip().lower() for part in ann.set_cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/admin", "secure"} <= flags
    assert (await ann.get("/users/me")).status_code == 400
    assert (await ann.get("/model-centric/processes")).status_code == 401
    answer = await site.web.get("/admin/", headers=site.owner.headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/login?next=/admin")
    assert (await site.web.get("/users/me", headers={"Authorization": f"Bearer {token}"})).status_code == 200


@pytest.mark.parametrize("scope", ["read", "all"])
async def test_an_api_token_is_no_session_of_a_browser(site: Site, scope: str) -> None:
    made = await site.owner.call("POST", "/users/me/tokens", json={"name": "script", "scope": scope})
    assert made.status_code == 201, made.text
    process, somebody = await _host(site), Browser(site.web)
    somebody.cookie = f"{service(site.app.state, Console).cookie}={made.json()['token']}"
    assert (await somebody.get("/admin/")).status_code == 303
    assert (await somebody.post(f"/admin/processes/{process}/finish")).status_code == 401


async def test_two_apps_on_one_machine_have_cookies_of_their_own(tmp_path: Path) -> None:
    names = set()
    for folder in ("a", "b"):
        app = build_domain(load_settings({}, data_dir=tmp_path / folder))
        async with running(app):
            names.add(service(app.state, Console).cookie)
    assert len(names) == 2


async def test_signing_out_ends_the_session(site: Site) -> None:
    ann = await browser(site)
    cookie = ann.cookie
    assert (await ann.post("/admin/logout")).headers["location"] == "/admin/login"
    assert ann.cookie == ""
    ann.cookie = cookie
    assert (await ann.get("/admin/")).status_code == 303
    assert (await ann.get("/admin/", headers={"HX-Request": "true"})).status_code == 401


async def test_a_wrong_password_is_told_and_the_email_stays(site: Site) -> None:
    somebody = Browser(site.web)
    answer = await somebody.post("/admin/login", {"email": "owner@example.org", "password": "wrong"})
    assert (answer.status_code, somebody.cookie) == (401, "")
    page = Page.read(answer)
    assert "the e-mail or the password is wrong" in page.text
    assert page.find("input", name="email", value="owner@example.org")
    assert page.find("input", name="password")[0]["value"] == ""


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/admin/jobs", "/admin/jobs"),
        ("/admin/people?text=a%2Bb%2525", "/admin/people?text=a%2Bb%2525"),
        ("%2Fadmin%2Fprocesses%2F1", "/admin/"),
        ("/admin/%2e%2E/users", "/admin/"),
        ("/admin/search?q=\u65e5", "/admin/"),
        ("", "/admin/"),
        ("https://evil.example/admin/", "/admin/"),
        ("//evil.example/admin/", "/admin/"),
        ("/admin/../users", "/admin/"),
        ("/admin/\\evil.example", "/admin/"),
        ("/users/me", "/admin/"),
        ("/admin/\r\nSet-Cookie: a=b", "/admin/"),
        (None, "/admin/"),
    ],
)
def test_the_way_back_after_signing_in_stays_in_the_console(given: object, path: str) -> None:
    assert next_path(given) == path


async def test_a_person_who_signs_in_comes_back_to_the_same_search(site: Site) -> None:
    path = "/admin/people?text=a%2Bb%2525%E6%97%A5"
    somebody = Browser(site.web)
    led = (await somebody.get(path)).headers["location"]
    (sent,) = (await somebody.page(led)).find("input", name="next")
    fields = {"email": "owner@example.org", "password": PASSWORD, "next": sent["value"]}
    assert (await somebody.post("/admin/login", fields)).headers["location"] == path
    assert (await somebody.page(path)).find("input", name="text", value="a+b%25\u65e5")


async def test_a_stream_without_a_session_is_not_led_to_a_page(site: Site) -> None:
    answer = await Browser(site.web).get("/admin/live?topics=queue", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, "unauthenticated" in answer.text) == (401, True)


async def test_links_have_the_address_by_which_the_browser_came(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path / "d", hosts="domain.example")
    settings = dataclasses.replace(settings, address="https://domain.example")
    async with running(build_domain(settings)) as web:
        code = find_setup_code(settings)
        assert code is not None
        await People(web).owner(setup_code=code.read())
        ann = await Browser(web).sign_in("owner@example.org")
        for host, start in (("domain.example", "https://domain.example"), ("localhost", "http://localhost")):
            made = await ann.post("/admin/people/invite", {"email": f"bob@{host}.org", "role": "1"}, Host=host)
            assert f"{start}/admin/join/" in made.text, made.text


async def test_a_password_is_not_taken_over_a_connection_that_others_read(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path / "d", host="10.0.0.1", secret_key="s" * 32, hosts="domain.example")
    async with running(build_domain(settings)) as web:
        far = {"Host": "domain.example", "Sec-Fetch-Site": "same-origin"}
        for more in ({}, {"X-Forwarded-Proto": "https"}):
            answer = await web.post("/admin/setup", data={"email": "a@b.example"}, headers={**far, **more})
            assert answer.status_code == 403
            assert "insecure_connection" in answer.text
    behind_proxy = dataclasses.replace(settings, address="https://domain.example")
    async with running(build_domain(behind_proxy)) as web:
        answer = await web.post("/admin/setup", data={"email": "a@b.example", "password": PASSWORD}, headers=far)
        assert "setup_code_needed" in answer.text
    settings = dataclasses.replace(settings, admin_insecure=True)
    async with running(build_domain(settings)) as web:
        answer = await web.post("/admin/setup", data={"email": "a@b.example", "password": PASSWORD}, headers=far)
        assert "setup_code_needed" in answer.text


# Set-up


async def test_the_first_one_becomes_owner_and_only_the_first_one(settings: DomainSettings) -> None:
    async with running(build_domain(settings)) as web:
        somebody = Browser(web)
        assert (await somebody.get("/admin/login")).headers["location"] == "/admin/setup"
        page = await somebody.page("/admin/setup")
        assert not page.find("input", name="code"), "on this machine no code is needed"
        several = [Browser(web) for _ in range(3)]
        answers = await asyncio.gather(
            *(
                one.post("/admin/setup", {"email": f"p{number}@example.org", "password": PASSWORD})
                for number, one in enumerate(several)
            )
        )
        inside = [one for one, answer in zip(several, answers, strict=True) if answer.status_code == 303]
        owners = [
            one for one in inside if "(Owner)" in (await one.page("/admin/")).text.replace("( Owner )", "(Owner)")
        ]
        assert len(owners) == 1
        assert (await somebody.get("/admin/setup")).status_code == 404


async def test_off_loopback_the_first_one_needs_the_code(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path / "d", host="10.0.0.1", secret_key="s" * 32)
    async with running(build_domain(settings)) as web:
        somebody = Browser(web)
        page = await somebody.page("/admin/setup?code=from-the-link")
        assert page.find("input", name="code", value="from-the-link")
        wrong = {"email": "a@example.org", "password": PASSWORD, "code": "wrong"}
        answer = await somebody.post("/admin/setup", wrong)
        assert (answer.status_code, "setup_code_wrong" in answer.text) == (403, True)
        code = (settings.data_dir / "setup-code").read_text().strip()
        answer = await somebody.post("/admin/setup", {**wrong, "code": code})
        assert answer.status_code == 303


# Requests of other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_only_pages_of_the_console_change_something(
    settings: DomainSettings, headers: dict[str, str], status: int
) -> None:
    async with running_site(settings) as site:
        process = await _host(site)
        ann = await browser(site)
        sent = {"Cookie": ann.cookie, **headers}
        answer = await site.web.post(f"/admin/processes/{process}/finish", headers=sent, follow_redirects=False)
        assert answer.status_code == status, answer.text
        state = (await site.owner.call("GET", f"/model-centric/processes/{process}")).json()["state"]
        assert state == ("finished" if status == 303 else "active")


# Texts of others


async def test_texts_of_others_are_shown_as_texts(site: Site) -> None:
    sent = {"name": "<i>points", "description": HOSTILE, "visibility": "listed", "tags": ["<u>tag</u>"]}
    files = {"config": json.dumps(sent).encode(), "data": npz(records())}
    answer = await site.owner.call("POST", DATASETS, files=files)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()["id"]
    job = await site.scientist.submit(dataset, "statistics", reason=HOSTILE[:900], **COUNT)
    await site.owner.wait(job["id"], "waiting")
    ann = await browser(site)
    for path in (
        "/admin/",
        "/admin/datasets",
        f"/admin/datasets/{dataset}",
        "/admin/requests",
        f"/admin/jobs/{job['id']}",
    ):
        page = await ann.page(path)
        assert not page.find("i"), path
        assert not page.find("u"), path
        assert not page.find("b"), path
        assert all("src" in script for script in page.find("script"))
        assert "\u202e" not in page.html, "marks that turn the direction of a text around are replaced"
    assert "alert(1)" in page.text


def test_long_texts_are_folded() -> None:
    shown = str(show_text("<" * 600))
    assert shown.startswith("<details><summary><bdi>&lt;")
    assert shown.count("&lt;") == 500 + 600
    assert str(show_text("short")) == "<bdi>short</bdi>"


@pytest.mark.parametrize(("num_bytes", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")])
def test_sizes_have_units(num_bytes: float, words: str) -> None:
    assert show_size(num_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "now"),
        (1, "1 second ago"),
        (180, "3 minutes ago"),
        (5400, "2 hours ago"),
        (-72 * 3600 + 5, "in 3 days"),
        (100 * 86400, "2026-01-01"),
    ],
)
def test_times_are_words(seconds: float, words: str) -> None:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    shown = show_time(moment, moment + dt.timedelta(seconds=seconds))
    assert shown == f'<time datetime="2026-01-01T00:00:00Z" title="2026-01-01T00:00:00Z">{words}</time>'


# Decisions


async def _asked(site: Site, **more: Any) -> tuple[int, dict[str, Any]]:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, "statistics", **COUNT, **more)
    return dataset, await site.owner.wait(job["id"], "waiting")


async def _decide(who: Browser, job: dict[str, Any], decision: str = "approve", **changes: str) -> httpx.Response:
    fields = {"request_hash": job["request_hash"], "state": job["state"], "decision": decision, **changes}
    return await who.post(f"/admin/jobs/{job['id']}/decide", fields)


async def test_a_request_is_seen_approved_and_its_result_released(site: Site) -> None:
    _, job = await _asked(site)
    ann, bob = await browser(site), await browser(site, "scientist")
    queue = await ann.page("/admin/requests")
    assert queue.find("a", href=f"/admin/jobs/{job['id']}")
    page = await ann.page(f"/admin/jobs/{job['id']}")
    assert page.find("input", name="request_hash", value=job["request_hash"])
    assert page.find("button", name="decision", value="approve")
    mine = await bob.page(f"/admin/jobs/{job['id']}")
    assert not mine.find("button", name="decision")
    assert "somebody else decides" in mine.text
    answer = await _decide(ann, job, comment="for the beds")
    assert answer.status_code == 303, answer.text
    held = await site.owner.wait(job["id"], "held")
    assert held["comment"] == "for the beds"
    page = await ann.page(f"/admin/jobs/{job['id']}")
    assert "Release" in page.text
    seen = {f"seen_{flag}": "1" for flag in re.findall(r'name="seen_(\w+)"', page.html)}
    assert (await _decide(ann, held, **seen)).status_code == 303
    await site.owner.wait(job["id"], "released")
    assert "Nothing waits" in (await ann.page("/admin/requests")).text


async def test_a_decision_is_bound_to_what_the_page_showed(site: Site) -> None:
    _, job = await _asked(site)
    ann = await browser(site)
    stale = await _decide(ann, job, request_hash="0" * 64)
    assert stale.status_code == 409
    assert "request_changed" in stale.text or "Code" in stale.text
    assert (await _decide(ann, job, state="held")).status_code == 409
    assert (await _decide(ann, job, state="running")).status_code == 400
    assert (await _decide(ann, job, decision="perhaps")).status_code == 400
    assert (await site.owner.job(job["id"]))["state"] == "waiting"
    assert (await _decide(ann, job, "deny")).status_code == 303
    again = await _decide(ann, job, "deny")
    assert again.status_code == 409
    assert "denied" in Page.read(again).text


async def test_who_asked_cannot_decide(site: Site) -> None:
    _, job = await _asked(site)
    bob, dora = await browser(site, "scientist"), await browser(site, "stranger")
    assert (await _decide(bob, job)).status_code == 403
    assert (await _decide(dora, job)).status_code == 404
    assert (await site.owner.job(job["id"]))["state"] == "waiting"


async def test_what_must_not_be_missed_has_to_be_confirmed(site: Site) -> None:
    dataset = await site.owner.upload(arrays=records(8))
    job = await site.scientist.submit(dataset, "train")
    ann = await browser(site)
    job = await site.owner.wait(job["id"], "waiting")
    assert job["expected_ratio"] >= 0.1
    assert [flag["code"] for flag in job["flags"]] == ["result_can_hold_records", "new_account"]
    assert (await site.scientist.job(job["id"]))["flags"] == [], "flags are for the data owner"
    seen = await _confirmed(ann, job)
    job = await site.owner.wait(job["id"], "held")
    assert job["bytes_out_ratio"] >= 0.1
    assert await _confirmed(ann, job) == seen == ["seen_result_can_hold_records"]
    assert (await site.owner.wait(job["id"], "released"))["flags"] == []


async def _confirmed(ann: Browser, job: dict[str, Any]) -> list[str]:
    """The flags that had to be confirmed before the job was approved."""
    page = await ann.page(f"/admin/jobs/{job['id']}")
    names = re.findall(r'name="(seen_\w+)"', page.html)
    refused = await _decide(ann, job, comment="my words")
    assert refused.status_code == 400
    again = Page.read(refused)
    assert "confirm that you have read" in again.text
    assert "my words" in again.text, "what was typed stays"
    assert (await _decide(ann, job, **dict.fromkeys(names, "1"))).status_code == 303
    return names


async def test_a_request_shows_its_evidence_to_who_decides_only(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, auto_approve=False)
    terms = {"epsilon": 0.5, "delta": 1e-7}
    asked = [{"kind": "mean", "column": "age", "lower": 0, "upper": 120, "by": "town", "keys": ["Bern", "Chur"]}]
    first = await site.scientist.submit(dataset, "statistics", statistics=asked, privacy=terms)
    ann = await browser(site)
    assert (await _decide(ann, await site.owner.wait(first["id"], "waiting"))).status_code == 303
    await site.owner.wait(first["id"], "released")
    second = await site.scientist.submit(dataset, "statistics", statistics=asked, privacy={**terms, "epsilon": 1.0})
    await site.owner.wait(second["id"], "waiting")
    page = await ann.page(f"/admin/jobs/{second['id']}")
    assert "scientist@example.org asks for the mean of age by town in points version 1, with epsilon 1." in page.text
    assert "can become at most 73% sure" in page.text
    assert "Share of scientist@example.org" in page.text
    assert "1 released" in page.text
    assert "1 difference to the last approved request" in page.text
    assert "privacy.epsilon" in page.text
    assert len(page.find("meter")) == 2
    bob = await browser(site, "scientist")
    mine = await bob.page(f"/admin/jobs/{second['id']}")
    for private in ("History", "new account", "The whole dataset"):
        assert private not in mine.text
    done = await bob.page(f"/admin/jobs/{first['id']}")
    assert "The mean of age by town" in done.text, done.text
    assert "Bern" in done.text


async def test_several_requests_are_denied_with_one_reason(site: Site) -> None:
    dataset = await site.owner.upload()
    jobs = [await site.scientist.submit(dataset, "statistics", **COUNT) for _ in range(3)]
    waiting = [await site.owner.wait(job["id"], "waiting") for job in jobs]
    ann = await browser(site)
    chosen = {f"deny_{job['id']}": job["request_hash"] for job in waiting[:2]}
    assert len(re.findall(r'name="deny_', (await ann.page("/admin/requests")).html)) == 3
    assert (await ann.post("/admin/requests/deny", {"comment": "no"})).status_code == 400
    assert (await ann.post("/admin/requests/deny", chosen)).status_code == 400, "without a reason"
    stale = dict.fromkeys(chosen, "0" * 64)
    assert (await ann.post("/admin/requests/deny", {**stale, "comment": "no"})).status_code == 409
    assert (await ann.post("/admin/requests/deny", {**chosen, "comment": "too many"})).status_code == 303
    states = [(await site.owner.job(job["id"]))["state"] for job in jobs]
    assert states == ["denied", "denied", "waiting"]
    assert (await site.scientist.job(jobs[0]["id"]))["comment"] == "too many"


async def test_an_approval_is_revoked_before_the_job_runs(site: Site) -> None:
    _, job = await _asked(site)
    ann = await browser(site)
    refused = await ann.post(f"/admin/jobs/{job['id']}/revoke")
    assert refused.status_code == 409
    bob = await browser(site, "scientist")
    assert (await bob.post(f"/admin/jobs/{job['id']}/revoke")).status_code == 403


# Processes and the Network


async def _host(site: Site, name: str = "digits") -> int:
    parts = form(config(name), MODEL)
    answer = await site.owner.call("POST", "/model-centric/host-training", files=parts)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def test_a_process_is_shown_and_finished(site: Site) -> None:
    process = await _host(site)
    ann = await browser(site)
    assert "digits" in (await ann.page("/admin/processes")).text
    page = await ann.page(f"/admin/processes/{process}")
    assert "Waiting for devices" in page.text
    assert page.find("section", **{"data-topic": f"process:{process}"})
    assert (await ann.post(f"/admin/processes/{process}/finish")).status_code == 303
    again = await ann.post(f"/admin/processes/{process}/finish")
    assert again.status_code in (303, 409)
    assert "finished" in (await ann.page(f"/admin/processes/{process}")).text


async def test_forms_that_are_none_are_refused(site: Site) -> None:
    ann = await browser(site)
    path = "/admin/jobs/" + "0" * 32 + "/decide"
    answer = await site.web.post(
        path,
        content=b"{}",
        headers={"Cookie": ann.cookie, "Sec-Fetch-Site": "same-origin", "Content-Type": "text/json"},
    )
    assert answer.status_code == 415
    many = {f"f{number}": "x" for number in range(300)}
    assert (await ann.post(path, many)).status_code == 400
    assert (await ann.post(path, {"comment": "a\0b"})).status_code == 400
    assert (await ann.post(path, {"comment": "x" * 70_000})).status_code == 413


async def test_a_domain_is_admitted_to_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.network import Impostor, running_network

    async with running_network(tmp_path / "net") as net:
        impostor = Impostor("carol")
        await impostor.greet(net)
        ann = await Browser(net.web).sign_in("owner@example.org")
        assert "carol asks to join" in (await ann.page("/admin/")).text
        page = await ann.page("/admin/domains")
        assert page.find("input", name="identity", value=str(impostor.identity.key))
        fields = {"name": "carol", "identity": "ed25519:" + "a" * 52, "decision": "accept"}
        assert (await ann.post("/admin/domains/decide", fields)).status_code in (400, 404, 409)
        fields["identity"] = str(impostor.identity.key)
        assert (await ann.post("/admin/domains/decide", fields)).status_code == 303
        assert "accepted" in (await ann.page("/admin/domains")).text
        fields["decision"] = "revoke"
        with monkeypatch.context() as later:
            later.setattr(sessions, "CONFIRMED", dt.timedelta(seconds=-1))
            assert (await ann.post("/admin/domains/decide", fields)).status_code == 401
            assert "accepted" in (await ann.page("/admin/domains")).text
        assert (await ann.post("/admin/domains/decide", fields)).status_code == 303
        assert "revoked" in (await ann.page("/admin/domains")).text


async def test_a_network_has_no_pages_of_data(tmp_path: Path) -> None:
    async with running(build_network(load_network_settings({}, data_dir=tmp_path / "n"))) as web:
        await People(web).owner()
        ann = await Browser(web).sign_in("owner@example.org")
        for path in ("/admin/requests", "/admin/processes", "/admin/datasets", "/admin/jobs"):
            assert (await ann.get(path)).status_code == 404
