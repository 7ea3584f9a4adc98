"""The web console in a real browser, against a Domain in a process of its own.

Should happen: from nothing to an approved answer by mouse; a training is seen live, also over a restart of the Domain;
more tabs than connections all load; a page that finds no place for its stream says so; pages work without scripts.
Should not happen: a request to another host, a violation of the policy, a message in the browser's console.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

import pygrid.client
from pygrid.client.statistics import count
from pygrid.edge import participate
from support.browser import Person, open_chromium
from support.console_app import ANN, App, owner, sign_in
from support.eventually import eventually_blocking
from support.web import PASSWORD

ROOT = Path(__file__).parents[2]
PLAN, MODEL = ROOT / "examples/plans/digits.plan", ROOT / "examples/plans/digits.safetensors"

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path)
    yield app
    app.process.terminate()
    app.process.wait()


@pytest.fixture
def visit(chromium: Browser, app: App) -> Iterator[Callable[..., Person]]:
    """Opens the console for one more person; at the end nothing may have gone wrong in any browser."""
    people: list[Person] = []

    def open_console(**options: Any) -> Person:
        people.append(Person(chromium, app.url, **options))
        return people[-1]

    yield open_console
    for person in people:
        person.close()


def upload(domain: pygrid.client.DomainClient) -> None:
    arrays = {"age": np.arange(20, 60, dtype=np.float32)}
    domain.datasets.upload("patients", arrays, visibility="listed")


def test_from_nothing_to_an_approved_answer(app: App, visit: Callable[..., Person]) -> None:
    ann = visit()
    ann.page.goto("/admin/")
    ann.page.get_by_label("E-mail").fill(ANN)
    ann.page.get_by_label("Password").fill(PASSWORD)
    ann.check_access("set-up")
    ann.page.get_by_role("button", name="Make me the Owner").click()
    expect(ann.page.get_by_text("Nothing waits for you.")).to_be_visible()
    domain = pygrid.client.connect(app.url)
    domain.login(ANN, PASSWORD)
    upload(domain)

    science = pygrid.client.connect(app.url)
    science.sign_up("bob@example.org", PASSWORD)
    bob = visit()
    sign_in(bob, "bob@example.org")
    ann.page.get_by_role("link", name="Requests").click()
    expect(ann.page.get_by_text("Nothing waits. New requests appear here at once.")).to_be_visible()
    expect(ann.page.get_by_role("status")).to_have_text("Live")
    job = science.statistics("patients", count(), reason="planning")
    ann.page.get_by_role("link", name="bob@example.org asks for").click()
    ann.check_access("job")
    bob.page.goto(f"/admin/jobs/{job.id}")
    expect(bob.page.get_by_role("button", name="Approve")).to_have_count(0)
    ann.page.get_by_label("Comment").fill("fine")
    approve = ann.page.get_by_role("button", name="Approve")
    approve.click()
    expect(approve).to_have_count(0)
    release = ann.page.get_by_role("button", name="Release")
    eventually_blocking(lambda: ann.page.reload() and release.count() == 1)
    for flag in ann.page.locator("input[type=checkbox]").all():
        flag.check()
    release.click()
    # The page of the requester follows by itself.
    expect(bob.page.locator("#job .badge").first).to_contain_text("released")
    assert job.wait().answers()[0]["value"] == 40


def test_a_training_is_seen_live_also_over_a_restart(app: App, visit: Callable[..., Person]) -> None:
    domain = owner(app)
    process = domain.host(
        "digits",
        "1.0",
        model=MODEL,
        plans={"training_plan": PLAN},
        client_config={"epochs": 1, "batch_size": 16, "lr": 0.1},
        server_config={"num_cycles": 6, "cycle_length": 600, "max_diffs": 2},
    )
    with np.load(ROOT / "examples/data/digits.npz") as file:
        data = {"x": file["pixels"][:64].astype(np.float32) / 16, "y": file["labels"][:64].astype(np.int64)}
    ann = visit()
    sign_in(ann, ANN)
    ann.page.goto("/admin/processes/1")
    expect(ann.page.get_by_text("Waiting for devices")).to_be_visible()
    expect(ann.page.get_by_role("status")).to_have_text("Live")
    participate(app.url, "digits", data, cycles=1)
    expect(ann.page.locator("strong[data-field=reported]")).to_have_text("1")
    app.kill()
    expect(ann.page.get_by_role("status")).to_have_text("Reconnecting")
    app.start_again()
    for _ in range(2):
        participate(app.url, "digits", data, cycles=1)
    domain.login(ANN, PASSWORD)
    assert [cycle.num_reports for cycle in process.cycles()][:1] == [2]
    expect(ann.page.get_by_role("status")).to_have_text("Live", timeout=60_000)
    expect(ann.page.locator("#live .lead")).to_contain_text("cycle 2 of 6", timeout=60_000)
    expect(ann.page.locator("strong[data-field=reported]")).to_have_text("1")
    ann.faults = [fault for fault in ann.faults if "ERR_CONNECTION" not in fault and "ERR_INCOMPLETE" not in fault]


def test_more_tabs_than_connections_all_load(app: App, visit: Callable[..., Person]) -> None:
    owner(app).host(
        "digits",
        "1.0",
        model=MODEL,
        plans={"training_plan": PLAN},
        server_config={"num_cycles": 2, "cycle_length": 600},
    )
    ann = visit()
    sign_in(ann, ANN)
    tabs = [ann.open("/admin/processes/1") for _ in range(9)]
    for tab in tabs:
        expect(tab.get_by_role("status")).to_contain_text("Live")
    assert sum(tab.get_by_role("status").inner_text() == "Live" for tab in tabs) <= 3


def test_a_page_without_a_stream_says_so_until_another_one_closes(app: App, visit: Callable[..., Person]) -> None:
    owner(app)
    ann = visit()
    sign_in(ann, ANN)
    ann.page.goto("/admin/settings")  # follows nothing
    (cookie,) = ann.context.cookies()
    headers = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    with httpx.Client(base_url=app.url, timeout=30) as web, ExitStack() as others:

        def follows() -> bool:
            answer = others.enter_context(web.stream("GET", "/admin/live?topics=queue", headers=headers))
            return answer.status_code == 200

        for _ in range(8):
            eventually_blocking(follows)  # the stream of the first page can still be open
        ann.page.goto("/admin/requests")
        status = ann.page.get_by_role("status")
        expect(status).to_contain_text("This page does not update itself: too many others of your session do.")
        expect(ann.page.get_by_text("Nothing waits.")).to_be_visible()
        ann.check_access("without a stream")
    expect(status).to_have_text("Live")
    ann.open("/admin/me").get_by_role("button", name="Sign out").click()
    expect(status).to_have_text("Signed out: sign in again.")
    ann.faults = [fault for fault in ann.faults if "status of 429" not in fault and "status of 401" not in fault]


def test_the_menu_is_folded_on_phones(app: App, visit: Callable[..., Person]) -> None:
    owner(app)
    ann = visit(viewport={"width": 360, "height": 740})
    sign_in(ann, ANN)
    menu, people = ann.page.get_by_text("Menu", exact=True), ann.page.get_by_role("link", name="People")
    expect(people).to_be_hidden()
    menu.click()
    expect(ann.page.get_by_role("link", name="Requests")).to_be_visible()
    expect(people).to_be_hidden()
    ann.page.get_by_text("More", exact=True).click()
    people.click()
    expect(ann.page.get_by_role("heading", name="People")).to_be_visible()
    expect(people).to_be_hidden()
    ann.page.set_viewport_size({"width": 740, "height": 360})
    expect(people).to_be_visible()
    expect(menu).to_be_hidden()


def test_without_scripts_pages_work(app: App, visit: Callable[..., Person]) -> None:
    domain = owner(app)
    upload(domain)
    science = pygrid.client.connect(app.url)
    science.sign_up("bob@example.org", PASSWORD)
    job = science.statistics("patients", count(), reason="planning")
    eventually_blocking(lambda: job.info().state == "waiting")
    ann = visit(java_script_enabled=False)
    sign_in(ann, ANN)
    ann.page.get_by_role("link", name="bob@example.org asks for").click()
    ann.page.get_by_role("button", name="Deny").click()
    expect(ann.page.locator("#job .badge").first).to_contain_text("denied")
    assert job.info().state == "denied"
