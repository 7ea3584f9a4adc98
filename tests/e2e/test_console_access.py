"""Every page of the console, for everybody: axe finds nothing in both themes and on a phone, nothing scrolls sideways.

Should happen: the pages of the route table of a Domain and of a Network are all opened, and those that a form makes.
Should not happen: a page that this file does not name; a request to another host, a message in the browser's console.
"""

from __future__ import annotations

import socket
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

import pygrid.client
from pygrid.client.statistics import count
from pygrid.features.accounts.browser_login import challenge_of
from support.browser import Person, open_chromium
from support.console import fill
from support.console_app import ANN, MODEL, PLAN, ROOT, App, owner, sign_in
from support.eventually import eventually_blocking
from support.oidc_provider import CLIENT_ID, CLIENT_SECRET, running_provider, sign_in_there
from support.plans.models import linear
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BOB = "bob@example.org"
MATRIX = tomllib.loads((ROOT / "tests/web/ui/matrix.toml").read_text())
CYCLES = {"num_cycles": 2, "cycle_length": 600}
NO_PAGE = {
    "GET /admin/jobs/{job_id}/result/download",
    "GET /admin/models/{model_id}/download",
    "GET /admin/processes/{process_id}/checkpoints/{number}",
    "GET /admin/oidc/start",
    "GET /admin/static/{name}",
}
"""Files, and a redirect to the provider."""
SIGNED_OUT = {"GET /admin/setup", "GET /admin/login", "GET /admin/oidc/callback", "GET /admin/enter/{code}"}
STATUS = {"GET /admin/{path}": 404, "GET /admin/oidc/callback": 404, "GET /admin/setup": 404}
"""Pages of errors. `test_the_set_up` examines the set-up while there is no account."""
QUERIES = {
    "GET /admin/search": "?q=patients",
    "GET /admin/processes/compare": "?run=1&run=1",
    "GET /admin/terminal": f"?challenge={challenge_of('v' * 43)}",
    "GET /admin/oidc/callback": "?state=none&code=none",
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A Domain with a sign-in provider."""
    port = free_port()
    with running_provider([f"http://127.0.0.1:{port}/admin/oidc/callback"]) as issuer:
        given = {"ISSUER": issuer, "CLIENT_ID": CLIENT_ID, "CLIENT_SECRET": CLIENT_SECRET, "NAME": "Example Login"}
        with pytest.MonkeyPatch.context() as environment:
            for name, value in given.items():
                environment.setenv(f"PYGRID_OIDC_{name}", value)
            app = App(tmp_path_factory.mktemp("access") / "domain", port=port)
        yield app
        app.stop()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("access") / "network", kind="network")
    yield app
    app.stop()


@pytest.fixture(scope="module")
def known(domain: App, network: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Makes one thing of each kind; yields their ids. One Domain belongs to the Network, and another asks to join."""
    ann, bob = owner(domain), pygrid.client.connect(domain.url)
    managers = pygrid.client.connect_network(network.url)
    managers.sign_up(ANN, PASSWORD)
    columns = [{"name": "age", "min": 0, "max": 99}]
    ann.datasets.upload("patients", {"age": np.arange(20, 60, dtype=np.float32)}, visibility="listed", columns=columns)
    ann.datasets["patients"].policy(epsilon=8.0, delta=1e-6, epsilon_per_user=2.0)
    ann.host("digits", "1.0", model=MODEL, plans={"training_plan": PLAN}, server_config=CYCLES)
    ann.serve("scores", linear(), allow_remote_inference=True)
    bob.sign_up(BOB, PASSWORD)
    jobs = [bob.statistics("patients", count(), reason=f"reason {n}", epsilon=0.5, delta=1e-7) for n in range(2)]
    for job in jobs:
        eventually_blocking(lambda job=job: job.info().state == "waiting")
    ann.job(jobs[0].id).approve()
    eventually_blocking(lambda: jobs[0].info().state == "released")
    ann.associations.join(network.url)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYGRID_INVITATION", managers.invite().token)
        folder = tmp_path_factory.mktemp("access") / "member"
        member = App(folder, "--id", "hospital", "--network", network.url)
    eventually_blocking(lambda: len(managers.domains()) == 1, within_s=60)
    ids = {"dataset_id": "1", "process_id": "1", "model_id": "scores", "user_id": "2", "path": "nothing"}
    yield {**ids, "job_id": jobs[1].id, "released": jobs[0].id}
    member.stop()


def examine(person: Person, path: str, where: str, status: int = 200) -> None:
    """The page has this status, passes axe, and does not scroll sideways."""
    answer = person.page.goto(path)
    assert answer is not None
    assert answer.status == status, (path, answer.status)
    person.check_everywhere(where)


def test_every_page_of_the_route_table(chromium: Browser, domain: App, network: App, known: dict[str, str]) -> None:
    for app, kind in ((domain, "domain"), (network, "network")):
        nobody, ann = Person(chromium, app.url), Person(chromium, app.url)
        sign_in(ann, ANN)
        made = {"user_id": "1"}
        if kind == "domain":
            made = {"draft_id": make_draft(ann, "draft"), "staged_id": stage(ann)}
        ids = known | made
        for route in MATRIX[kind]:
            if not route.startswith("GET ") or route in NO_PAGE:
                continue
            path = fill(route, ids | {"job_id": ids["released" if "result" in route else "job_id"]})
            path = path.removeprefix("GET ")
            if "/enter/" in path:
                path = link_of(app, kind)
            who = nobody if route in SIGNED_OUT else ann
            has_provider = kind == "domain" and route == "GET /admin/oidc/callback"
            status = 403 if has_provider else STATUS.get(route, 200)
            examine(who, path + QUERIES.get(route, ""), f"{kind} {route}", status)
            tabs = who.page.locator("nav.tabs a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
            for tab in tabs:
                examine(who, tab, f"{kind} {tab}")
        for who in (nobody, ann):
            who.faults = [fault for fault in who.faults if "the server responded with a status of 40" not in fault]
            who.close()


def make_draft(ann: Person, name: str) -> str:
    ann.page.goto("/admin/processes/new")
    ann.page.get_by_label("Name").fill(name)
    ann.page.get_by_label("Plan file").set_input_files(PLAN)
    ann.page.get_by_label("Model file").set_input_files(MODEL)
    ann.page.get_by_role("button", name="Check the files").click()
    ann.page.wait_for_url("**/processes/drafts/*", timeout=60_000)
    return ann.page.url.rpartition("/")[2]


def stage(ann: Person) -> str:
    ann.page.goto("/admin/datasets/new")
    content = "age,ward\n" + "".join(f"{20 + n % 60},{'ABC'[n % 3]}\n" for n in range(200))
    file = {"name": "wards.csv", "mimeType": "text/csv", "buffer": content.encode()}
    ann.page.get_by_label("File").set_input_files(file)
    ann.page.wait_for_url("**/datasets/staged/*", timeout=60_000)
    return ann.page.url.rpartition("/")[2]


def link_of(app: App, kind: str) -> str:
    """The path of a one-time link."""
    client = pygrid.client.connect(app.url) if kind == "domain" else pygrid.client.connect_network(app.url)
    client.login(ANN, PASSWORD)
    return urlsplit(client.browser_link()).path


def test_the_set_up(chromium: Browser, tmp_path: Path) -> None:
    for kind in ("domain", "network"):
        app = App(tmp_path / kind, kind=kind)
        try:
            first = Person(chromium, app.url)
            examine(first, "/admin/setup", f"set-up of a {kind}")
            first.close()
        finally:
            app.stop()


def test_pages_that_forms_make(chromium: Browser, domain: App, network: App, known: dict[str, str]) -> None:
    ann, managers = Person(chromium, domain.url), Person(chromium, network.url)
    for person in (ann, managers):
        sign_in(person, ANN)
    press(ann, "/admin/people", "Make a link", {"Invite somebody": "dora@example.org"}, "an invitation")
    press(ann, "/admin/people/2", "Make a link", {}, "a link for a password")
    press(ann, "/admin/me", "Make the token", {"Name": "nightly"}, "a token")
    press(ann, "/admin/audit", "Verify the log", {}, "a verified log")
    press(managers, "/admin/invitations", "Make an invitation", {"Name of the Domain": "carol"}, "a Domain invited")
    managers.page.goto("/admin/domains")
    managers.page.keyboard.press("?")
    managers.check_everywhere("help")
    managers.close()
    # Connect the account with the provider, and disconnect it.
    press(ann, "/admin/me", "Connect with Example Login", {}, "connect")
    begun = ann.context.request.get("/admin/oidc/start?connect=1&next=/admin/me", max_redirects=0)
    ann.page.goto(sign_in_there(begun.headers["location"], "ann"))
    expect(ann.page.get_by_role("button", name="Disconnect")).to_be_visible()
    ann.check_everywhere("a connected account")
    ann.page.locator("#disconnect-password").fill(PASSWORD)
    ann.page.get_by_role("button", name="Disconnect").click()
    expect(ann.page.get_by_role("button", name="Connect with Example Login")).to_be_visible()
    ann.check_everywhere("a disconnected account")
    # A change of weight, 20 minutes after the sign-in.
    with closing(sqlite3.connect(domain.folder / "data" / "domain.db")) as database, database:
        database.execute("UPDATE sessions SET created_at = strftime('%Y-%m-%d %H:%M:%f000', created_at, '-20 minutes')")
    press(ann, "/admin/me", "Make the token", {"Name": "later"}, "the password again", 401)
    expect(ann.page.get_by_text("You signed in over 15 minutes ago")).to_be_visible()
    ann.page.get_by_label("Password").fill(PASSWORD)
    ann.page.get_by_role("button", name="Continue").click()
    expect(ann.page.get_by_role("heading", name="Your new API token")).to_be_visible()
    ann.faults = [fault for fault in ann.faults if "the server responded with a status of 401" not in fault]
    refused = Person(chromium, domain.url)
    begun = refused.context.request.get("/admin/oidc/start", max_redirects=0)
    refused.page.goto(sign_in_there(begun.headers["location"], "ann"))
    expect(refused.page.get_by_text("connect it again under Your account")).to_be_visible()
    refused.check_everywhere("a refused sign-in")
    refused.faults = [fault for fault in refused.faults if "the server responded with a status of 403" not in fault]
    refused.close()
    ann.close()


def press(person: Person, path: str, button: str, fields: dict[str, str], where: str, status: int = 200) -> None:
    """Fill in a form of a page, send it, and examine the page that comes."""
    person.page.goto(path)
    for label, value in fields.items():
        person.page.get_by_label(label).first.fill(value)
    with person.page.expect_navigation() as sent:
        person.page.get_by_role("button", name=button, exact=True).click()
    assert sent.value.status == status, where
    person.check_everywhere(where)
