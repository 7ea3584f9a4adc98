"""Walks of a scientist (W3) and of the administrator of a Network (W4) in a real browser.

Should happen: the walks take as many seconds of hands and eyes as they may; axe finds nothing on pages with hostile
texts, in both themes and on a phone; the price appears while the form is filled in; hostile texts stay texts.
Should not happen: a request to another host, a violation of the policy, a message in the browser's console.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

import pygrid.client
from support.browser import Person, StopWatch, open_chromium, shoot
from support.console_app import ANN, MODEL, PLAN, App, owner, sign_in
from support.plans.models import linear
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BOB = "bob@example.org"
HOSTILE = "<script>alert(1)</script>\u202e<img src=x onerror=alert(2)>" + "x" * 200


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A Domain with a dataset, a training, a served model, a Network that it asks to accept it, and two people."""
    app = App(tmp_path_factory.mktemp("domain"))
    domain = owner(app)
    generator = np.random.default_rng(7)
    arrays = {"age": generator.integers(20, 80, 400).astype(np.float32), "ward": generator.integers(0, 4, 400)}
    columns = [{"name": "age", "min": 0, "max": 120}, {"name": "ward", "min": 0, "max": 3}]
    domain.datasets.upload("patients", arrays, visibility="listed", columns=columns, description=HOSTILE)
    domain.datasets["patients"].policy(epsilon=8.0, delta=1e-6, epsilon_per_user=2.0, auto_approve=True)
    domain.host(
        "digits",
        "1.0",
        model=MODEL,
        plans={"training_plan": PLAN},
        server_config={"num_cycles": 2, "cycle_length": 600},
    )
    domain.serve("scores", linear(), description=HOSTILE, allow_remote_inference=True)
    pygrid.client.connect(app.url).sign_up(BOB, PASSWORD)
    yield app
    app.stop()


@pytest.fixture
def bob(chromium: Browser, app: App) -> Iterator[Person]:
    person = Person(chromium, app.url)
    sign_in(person, BOB)
    yield person
    person.close()


def test_a_scientist_asks_within_45_seconds(bob: Person) -> None:
    watch = StopWatch()
    watch.click(bob.page.get_by_role("link", name="Datasets"))
    watch.click(bob.page.get_by_role("link", name="patients"))
    watch.click(bob.page.get_by_role("link", name="Ask this dataset"))
    bob.check_access("ask")
    watch.choose(bob.page.get_by_label("What"), "mean")
    watch.choose(bob.page.get_by_label("of column"), "age")
    watch.choose(bob.page.get_by_label("by", exact=True), "ward")
    watch.type(bob.page.get_by_label("groups"), "0,1,2,3")
    watch.type(bob.page.get_by_label("Epsilon"), "0.5")
    expect(bob.page.locator("#price")).to_contain_text("of your 2")
    expect(bob.page.locator("#price")).to_contain_text("within about")
    shoot(bob, "ask")
    watch.type(bob.page.get_by_label("Reason"), "planning of beds")
    watch.read(2)
    watch.click(bob.page.get_by_role("button", name="Submit"))
    expect(bob.page.locator("#job .badge").first).to_be_visible()
    watch.report("W3", 45)
    # The answer comes by itself: the page is not loaded again.
    bob.page.get_by_role("link", name="Open the result").click(timeout=60_000)
    expect(bob.page.locator("svg.bars g")).to_have_count(4)
    expect(bob.page.locator("table tbody tr")).to_have_count(4)
    bob.check_access("result")
    shoot(bob, "result")


PAGES = (
    "/admin/datasets",
    "/admin/datasets/1",
    "/admin/ask/1?kind0=mean&column0=age&epsilon=1",
    "/admin/ask/1?tab=model",
    "/admin/models",
    "/admin/models/scores",
    "/admin/search?q=patients",
)
"""Pages with texts of other people. `test_console_access` opens all pages."""


def test_pages_with_hostile_texts_can_be_used_by_everybody(chromium: Browser, app: App) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    for path in PAGES:
        ann.page.goto(path)
        ann.check_everywhere(path)
    ann.close()


def test_a_model_is_asked_and_a_process_hosted_by_mouse(chromium: Browser, app: App) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    ann.page.goto("/admin/models/scores")
    ann.page.locator("textarea").fill("1,2,3,4")
    ann.page.get_by_role("button", name="Ask the model").click()
    expect(ann.page.get_by_role("heading", name="Answer")).to_be_visible()
    ann.check_access("answer")
    ann.page.goto("/admin/processes")
    ann.page.get_by_role("link", name="Host a model").click()
    ann.page.get_by_label("Name").fill("digits2")
    ann.page.get_by_label("Plan file").set_input_files(PLAN)
    ann.page.get_by_label("Model file").set_input_files(MODEL)
    ann.page.get_by_role("button", name="Check the files").click()
    expect(ann.page.get_by_text("It reads x").first).to_be_visible(timeout=60_000)
    ann.check_access("draft")
    shoot(ann, "host")
    ann.page.get_by_label("Reports that close a cycle").fill("4")
    ann.page.get_by_role("button", name="Host digits2 1.0").click()
    expect(ann.page.get_by_text("Waiting for devices")).to_be_visible(timeout=60_000)
    ann.close()


def leave_a_form_in_use(ann: Person, managers: pygrid.client.NetworkClient) -> None:
    """A change of the list replaces no form that somebody fills in; the person decides when to see it."""
    expect(ann.page.get_by_role("status")).to_have_text("Live")
    reason = ann.page.get_by_label("Reason")
    reason.fill("known to us")
    managers.invite()
    link = ann.page.get_by_role("link", name="Show it from its beginning").first
    expect(link).to_be_visible()
    expect(reason).to_have_value("known to us")
    link.click()
    expect(reason).to_have_value("")


def test_a_domain_is_accepted_within_30_seconds(chromium: Browser, app: App, tmp_path: Path) -> None:
    network = App(tmp_path / "network", kind="network")
    try:
        managers = pygrid.client.connect_network(network.url)
        managers.sign_up(ANN, PASSWORD)
        domain = pygrid.client.connect(app.url)
        domain.login(ANN, PASSWORD)
        ann = Person(chromium, network.url)
        watch = StopWatch()
        ann.page.goto("/admin/login")
        watch.type(ann.page.get_by_label("E-mail"), ANN)
        watch.type(ann.page.get_by_label("Password"), PASSWORD)
        watch.click(ann.page.get_by_role("button", name="Sign in"))
        expect(ann.page.get_by_role("status")).to_have_text("Live")
        domain.associations.join(network.url)
        need = ann.page.get_by_role("link", name="asks to join this Network")
        expect(need).to_be_visible(timeout=60_000)  # by itself
        watch.click(need)
        ann.check_access("waiting")
        watch.read(3)
        leave_a_form_in_use(ann, managers)
        watch.click(ann.page.get_by_role("button", name="Accept"))
        expect(ann.page.get_by_role("button", name="Revoke")).to_be_visible()
        watch.report("W4", 30)
        ann.check_access("domains")
        shoot(ann, "domains")
        ann.page.goto("/admin/search?q=patients")
        ann.check_access("network search")
        ann.close()
    finally:
        network.stop()
