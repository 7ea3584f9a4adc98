"""Who may open and use which page: every route of the console, for each kind of person, on both kinds of database.

`matrix.toml` lists each route of a Domain and of a Network with the status that each person gets. A route that is
missing there fails. `RECORD_SNAPSHOTS=1` records it; read the difference: each line is a decision about access.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from litestar import Litestar

from pygrid.network import build_network
from pygrid.settings import DomainSettings, load_network_settings
from pygrid.ui.console import Console
from pygrid.web.services import service
from support.console import Browser, fill, routes_of
from support.jobs import MODEL, running_site
from support.training import config, form
from support.web import People, running

MATRIX = Path(__file__).parent / "matrix.toml"
ACTORS = ("anonymous", "user", "officer", "administrator", "owner", "powerless")
UNKNOWN = dict.fromkeys(("token_id", "invitation_id", "draft_id", "number", "network_id", "worker_id"), "999") | {
    "user_id": "2"
}
FORM = {"act": "none"}
"""A form that no act accepts, so that the order of the people makes no difference."""


async def ask(who: Browser, route: str, known: dict[str, str]) -> int:
    method, _, path = route.partition(" ")
    path = fill(path, known)
    answer = await (who.get(path) if method == "GET" else who.post(path, FORM))
    assert answer.status_code != 500, f"{route}: {answer.text}"
    if path != "/admin/static/nothing":
        assert answer.headers["cache-control"] == "no-store", route
    assert answer.headers["x-frame-options"] == "DENY", route
    assert answer.headers["x-content-type-options"] == "nosniff", route
    assert "default-src 'none'" in answer.headers["content-security-policy"], route
    assert "set-cookie" not in answer.headers or method == "POST" or answer.status_code == 303, route
    return answer.status_code


async def check(app: Litestar, kind: str, people: dict[str, Browser], known: dict[str, str]) -> None:
    routes = [route for route in routes_of(app) if not route.startswith("GET /admin/live")]
    found = {route: [await ask(people[actor], route, known) for actor in ACTORS] for route in routes}
    if os.environ.get("RECORD_SNAPSHOTS"):
        record(kind, found)
    expected = tomllib.loads(MATRIX.read_text())[kind]
    assert sorted(found) == sorted(expected), "matrix.toml lists other routes than the console has"
    wrong = {route: (statuses, expected[route]) for route, statuses in found.items() if statuses != expected[route]}
    assert wrong == {}, "other statuses than those in matrix.toml: (found, listed)"


def record(kind: str, found: dict[str, list[int]]) -> None:
    tables = tomllib.loads(MATRIX.read_text()) if MATRIX.exists() else {}
    tables[kind] = found
    lines = [f"# The status that each of these gets: {', '.join(ACTORS)}."]
    for name in sorted(tables):
        lines += ["", f"[{name}]", *(f'"{route}" = {statuses}' for route, statuses in sorted(tables[name].items()))]
    MATRIX.write_text("\n".join(lines) + "\n")


def browser_of(app: Litestar, web: object, headers: dict[str, str]) -> Browser:
    """The browser of somebody with this session."""
    who = Browser(web)  # type: ignore[arg-type]
    token = headers.get("Authorization", headers.get("token", "")).removeprefix("Bearer ")
    who.cookie = f"{service(app.state, Console).cookie}={token}"
    return who


async def test_a_domain_opens_its_pages_to_those_who_may(settings: DomainSettings, database_url: str) -> None:
    async with running_site(replace(settings, database_url=database_url)) as site:
        dataset = await site.owner.upload()
        await site.owner.set_policy(dataset)
        job = await site.scientist.submit(dataset, "statistics", statistics=[{"kind": "count"}])
        await site.owner.wait(job["id"], "waiting")
        hosted = await site.owner.call("POST", "/model-centric/host-training", files=form(config("m"), MODEL))
        process = str(hosted.json().get("id", 1)) if hosted.status_code == 201 else "1"
        role = await site.owner.call(
            "POST", "/roles", json={"name": "Nobody", **dict.fromkeys(_permissions(site.app), False)}
        )
        administrator = await site.people.with_role(3, site.owner.headers, "admin@example.org")
        powerless = await site.people.with_role(role.json()["role"]["id"], site.owner.headers, "nobody@example.org")
        people = {
            "anonymous": Browser(site.web),
            "user": browser_of(site.app, site.web, site.scientist.headers),
            "officer": browser_of(site.app, site.web, site.officer.headers),
            "administrator": browser_of(site.app, site.web, administrator),
            "owner": browser_of(site.app, site.web, site.owner.headers),
            "powerless": browser_of(site.app, site.web, powerless),
        }
        known = {"dataset_id": str(dataset), "job_id": job["id"], "process_id": process, **UNKNOWN}
        await check(site.app, "domain", people, known)


def _permissions(app: Litestar) -> list[str]:
    from pygrid.features.accounts.service import AccountService

    return [str(name) for name in service(app.state, AccountService).access.permissions]


async def test_a_network_opens_its_pages_to_those_who_may(tmp_path: Path, database_url: str) -> None:
    app = build_network(load_network_settings({}, data_dir=tmp_path / "n", database_url=database_url))
    async with running(app) as web:
        accounts = People(web)
        owner = await accounts.owner()
        made = await web.post(
            "/roles", headers=owner, json={"name": "Nobody", **dict.fromkeys(_permissions(app), False)}
        )
        assert made.status_code == 200, made.text
        # A Network has no officers, so theirs is one more user.
        named = {"user": 1, "officer": 1, "administrator": 3, "powerless": made.json()["role"]["id"]}
        people = {"anonymous": Browser(web), "owner": browser_of(app, web, owner)}
        for name, role in named.items():
            people[name] = browser_of(app, web, await accounts.with_role(role, owner, f"{name}@example.org"))
        await check(app, "network", people, UNKNOWN)


def test_no_page_is_open_to_those_without_an_account() -> None:
    """Only pages that are for them: sign-in, set-up, one-time links, static files."""
    matrix = tomllib.loads(MATRIX.read_text())
    open_to_all = {
        route for kind in matrix.values() for route, statuses in kind.items() if statuses[0] not in (303, 401, 403)
    }
    allowed = (
        "/admin/login",
        "/admin/setup",
        "/admin/enter",
        "/admin/join",
        "/admin/oidc",
        "/admin/recover",
        "/admin/static",
        "/admin/{path}",
    )
    assert [route for route in sorted(open_to_all) if not route.partition(" ")[2].startswith(allowed)] == []


@pytest.mark.parametrize("name", ["matrix.toml"])
def test_the_matrix_says_who_its_columns_are(name: str) -> None:
    assert f"gets: {', '.join(ACTORS)}." in (MATRIX.parent / name).read_text()
