"""Texts of others on every page: markup stays text, and marks that turn the direction of a text around are replaced.

Should happen: each hostile text is seen on some page; each route of the console is opened, also one that is new.
Should not happen: an element or an attribute that a hostile text brought; a page that fails because of one.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from litestar import Litestar

from pygrid.network import build_network
from pygrid.settings import DomainSettings, load_network_settings
from support.console import Browser, Page, fill, routes_of
from support.jobs import DATASETS, MODEL, PLAN, Site, npz, records, running_site
from support.plans.models import linear
from support.training import config, form
from support.web import PASSWORD, People, running

NO_HTML = {
    "/admin/static/{name}": "files of the console itself",
    "/admin/live": "an event stream",
    "/admin/jobs/{job_id}/result/download": "a download",
    "/admin/models/{model_id}/download": "a download",
    "/admin/processes/{process_id}/checkpoints/{number}": "a download",
}
"""Routes that answer with something else than a page."""
TABS = {
    "/admin/datasets/{dataset_id}": [
        "tab=columns",
        "tab=mock",
        "tab=data",
        "tab=versions",
        "tab=budget",
        "tab=requests",
    ],
    "/admin/processes/{process_id}": ["tab=checkpoints", "tab=plans", "tab=configuration"],
    "/admin/ask/{dataset_id}": ["tab=model", f"kind0=mean&column0={'%3Cx-evil%3E'}&epsilon=1"],
    "/admin/budgets/{dataset_id}": ["kind=%3Cx-evil%3E&epsilon=%3Cx-evil%3E", "period=%3Cx-evil%3E"],
    "/admin/search": ["q=%3Cx-evil%3E"],
    "/admin/processes": ["q=%3Cx-evil%3E&state=%3Cx-evil%3E"],
    "/admin/datasets": ["text=%3Cx-evil%3E&before=%3Cx-evil%3E"],
    "/admin/people": ["text=%3Cx-evil%3E"],
    "/admin/jobs": ["whose=all", "state=%3Cx-evil%3E&before=%3Cx-evil%3E"],
    "/admin/audit": ["action=%3Cx-evil%3E"],
}
"""More addresses of a route."""


def evil(where: str) -> str:
    """A text with markup, a way out of an attribute, and a mark; printable, as most names must be."""
    return f"<x-evil>\"'><x-evil a={where}>"


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def check_pages(app: Litestar, who: Browser, known: dict[str, str]) -> str:
    """Open every page; return the texts of all."""
    seen = []
    for route in routes_of(app):
        method, _, path = route.partition(" ")
        if method != "GET" or path in NO_HTML:
            continue
        address = fill(path, known)
        for query in ("", *TABS.get(path, ())):
            answer = await who.get(f"{address}?{query}" if query else address)
            assert answer.status_code < 500, f"{address}?{query}: {answer.text}"
            if answer.status_code == 303:
                continue
            page = Page.read(answer)
            assert not page.find("x-evil"), f"{address}?{query}"
            assert not any("x-evil" in name or name == "a" for _, found in page.elements for name in found), address
            assert "\u202e" not in page.html, f"{address}?{query}"
            seen.append(page.text)
    return "\n".join(seen)


async def fill_domain(site: Site) -> tuple[dict[str, str], list[str]]:
    """One thing of each kind with hostile texts. Returns the ids, and the texts."""
    ann, texts = await Browser(site.web).sign_in("owner@example.org"), []

    def text(where: str) -> str:
        texts.append(where)
        return evil(where)

    arrays = records() | {text("column"): records()["age"]}
    sent = {"name": text("dataset"), "description": text("description") + "\u202e", "visibility": "listed"}
    sent |= {"tags": [text("tag")]}
    sent |= {"columns": [{"name": "age", "unit": text("unit"), "description": text("meaning")}]}
    files = {"config": json.dumps(sent).encode(), "data": npz(arrays)}
    stored = await site.owner.call("POST", DATASETS, files=files)
    assert stored.status_code == 201, stored.text
    dataset = int(stored.json()["id"])
    await site.owner.set_policy(dataset)
    count = {"statistics": [{"kind": "count"}]}
    job = await site.scientist.submit(dataset, "statistics", reason=text("reason") + "\u202e", **count)
    waiting = await site.owner.wait(job["id"], "waiting")
    denied = await site.scientist.submit(dataset, "statistics", reason="x", **count)
    seen = await site.owner.wait(denied["id"], "waiting")
    assert (await site.owner.decide("deny", seen, comment=text("comment"))).status_code == 200
    hosted = config(text("process"), text("version"))
    process = await site.owner.call("POST", "/model-centric/host-training", files=form(hosted, MODEL))
    assert process.status_code in (200, 201), process.text
    draft = await ann.upload(
        "/admin/processes/new", {"name": text("draft"), "version": "1"}, {"plan": PLAN, "model": MODEL}
    )
    assert draft.status_code == 303, draft.text
    served = {"model_id": "scores", "description": text("served"), "allow_remote_inference": "true"}
    assert (await ann.upload("/admin/models", served, {"model": linear()})).status_code == 303
    staged = await ann.send_file("/admin/datasets/staged", f"{text('header')},b\n1,2\n3,4\n".encode(), text("file"))
    assert staged.status_code == 303, staged.text
    invited = await ann.post("/admin/people/invite", {"email": "<x-evil a=invited>@b.example", "role": "1"})
    assert invited.status_code == 400, "an e-mail has no spaces"
    made = await site.owner.call("POST", "/users/me/tokens", json={"name": text("token"), "scope": "read"})
    assert made.status_code == 201, made.text
    permissions = await ann.post("/admin/roles", {"act": "make", "name": text("role")})
    assert permissions.status_code == 303, permissions.text
    assert (await ann.post("/admin/workers", {"name": text("worker")})).status_code < 500
    known = {
        "dataset_id": str(dataset),
        "job_id": waiting["id"],
        "process_id": "1",
        "model_id": "scores",
        "number": "1",
    }
    known |= {"user_id": "2", "code": evil("code").replace("/", ""), "path": "%3Cx-evil%3E"}
    known |= {
        "denied": denied["id"],
        "draft_id": draft.headers["location"].rpartition("/")[2],
        "staged_id": staged.headers["location"].rpartition("/")[2],
    }
    return known, texts


async def test_every_page_of_a_domain_shows_texts_as_texts(site: Site) -> None:
    known, texts = await fill_domain(site)
    ann = await Browser(site.web).sign_in("owner@example.org")
    shown = await check_pages(site.app, ann, known)
    for path in (f"/admin/jobs/{known['denied']}", "/admin/jobs?whose=all"):
        shown += (await ann.page(path)).text
    assert [one for one in texts if f"a={one}>" not in shown] == []
    bob = await Browser(site.web).sign_in("scientist@example.org")
    await check_pages(site.app, bob, known)


async def test_long_texts_and_turned_directions_do_no_harm(site: Site) -> None:
    turned = "\u202e" + evil("turned") + "\u2066" + "y" * 10_000
    ann = await Browser(site.web).sign_in("owner@example.org")
    file = f"{turned},b\n1,2\n3,4\n\n5,{turned}\n".encode()
    staged = await ann.send_file("/admin/datasets/staged", file, f"a\u202e{evil('file')}.csv")
    assert staged.status_code == 303, staged.text
    away = {"User-Agent": evil("browser") + "y" * 1000}
    fields = {"email": "owner@example.org", "password": PASSWORD}
    assert (await Browser(site.web).post("/admin/login", fields, **away)).status_code == 303
    long = turned
    turned = turned[:200]
    query = {"q": turned, "text": turned, "state": turned, "action": "x", "before": turned, "kind0": "mean"}
    query |= {"column0": turned, "epsilon": turned, "reason": turned, "period": turned, "code": turned}
    for path in (staged.headers["location"], "/admin/datasets/new", "/admin/me", "/admin/search", "/admin/people"):
        for sent in ({}, query):
            answer = await ann.get(path, params=sent)
            page = Page.read(answer)
            assert answer.status_code < 500, path
            assert not page.find("x-evil"), path
            shown = re.sub(r'<input[^>]* value="[^"]*"', "", page.html)  # fields keep what was typed
            assert "\u202e" not in shown, path
            assert "\u2066" not in shown, path
    for path in ("/admin/login", "/admin/setup", "/admin/join/x"):
        answer = await Browser(site.web).post(path, {"email": long, "password": long, "next": long})
        assert answer.status_code < 500, path
        assert not Page.read(answer).find("x-evil"), path


async def test_code_to_copy_has_names_as_literals_only(site: Site) -> None:
    name = 'x"]; import os; os.system("calc"); y["'
    dataset = await site.owner.upload(name)
    hosted = await site.owner.call("POST", "/model-centric/host-training", files=form(config(name, name), MODEL))
    assert hosted.status_code in (200, 201), hosted.text
    ann = await Browser(site.web).sign_in("owner@example.org")
    paths = [f"/admin/datasets/{dataset}", "/admin/processes/1", "/admin/processes/compare?run=1&run=1"]
    paths += [f"/admin/ask/{dataset}?epsilon=1);import+os;os.system('calc')#&kind0=count", '/admin/search?q=x"]']
    for path in paths:
        page = await ann.page(path)
        (code,) = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page.html, re.DOTALL)
        for node in ast.walk(ast.parse(html.unescape(code))):
            assert not (isinstance(node, ast.Attribute) and node.attr == "system"), code
            assert not isinstance(node, ast.Import), code


async def test_every_page_of_a_network_shows_texts_as_texts(tmp_path: Path) -> None:
    app = build_network(load_network_settings({}, data_dir=tmp_path / "n"))
    async with running(app) as web:
        await People(web).owner()
        ann = await Browser(web).sign_in("owner@example.org")
        assert (await ann.post("/admin/roles", {"act": "make", "name": evil("role")})).status_code == 303
        shown = await check_pages(app, ann, {"user_id": "1", "code": "x", "path": "%3Cx-evil%3E"})
        assert "a=role>" in shown
