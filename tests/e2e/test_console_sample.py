"""A private training on the sample dataset, and a Network with its operator: by mouse alone, in a real browser.

Should happen: a scientist finds the sample, sees the price, submits the plan of the examples; the Owner sees the
request appear, approves it; the model is shown and saved. An operator invites, accepts, denies and revokes Domains,
searches, and reads the page of the relay.
Should not happen: a step that needs another tool than the browser; a violation of the policy of pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import pygrid.client
from pygrid.tensors import decode
from support.browser import Person, open_chromium
from support.console_app import ANN, ROOT, App, sign_in
from support.eventually import eventually_blocking
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BOB = "bob@example.org"
PLAN, MODEL = ROOT / "examples/plans/breast_cancer.plan", ROOT / "examples/plans/breast_cancer.safetensors"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path / "domain")
    yield app
    app.stop()


def begin(chromium: Browser, app: App) -> tuple[Person, Person]:
    """The Owner with the sample and a usual budget for training, and a scientist."""
    ann, bob = Person(chromium, app.url, viewport={"width": 1280, "height": 1100}), Person(chromium, app.url)
    ann.page.goto("/admin/")
    ann.page.get_by_label("E-mail").fill(ANN)
    ann.page.get_by_label("Password").fill(PASSWORD)
    ann.page.get_by_role("button", name="Make me the Owner").click()
    ann.page.get_by_role("link", name="Open a budget").click()
    ann.page.get_by_role("button", name="Usual").click()
    expect(ann.page.get_by_text("can become at most 95% sure")).to_be_visible()
    ann.page.get_by_role("link", name="People").click()
    ann.page.get_by_label("Invite somebody").fill(BOB)
    ann.page.get_by_role("button", name="Make a link").click()
    (link,) = re.findall(r"http://\S+/admin/join/\S+", ann.page.locator(".shown-once pre").inner_text())
    bob.page.goto(link)
    bob.page.get_by_label("Password").fill(PASSWORD)
    bob.page.get_by_role("button", name="Make my account").click()
    return ann, bob


def test_a_private_training_on_the_sample_by_mouse(chromium: Browser, app: App, tmp_path: Path) -> None:
    ann, bob = begin(chromium, app)
    page = bob.page
    page.get_by_role("link", name="Datasets").click()
    page.get_by_role("link", name="cells").click()
    page.get_by_role("link", name="Columns").click()
    expect(page.get_by_role("row", name=re.compile("^measurements"))).to_contain_text("30")
    page.get_by_role("link", name="About").click()
    page.get_by_role("link", name="Ask this dataset").click()
    page.get_by_role("link", name="Train, evaluate or predict").click()
    page.get_by_text("Columns of cells").click()
    expect(page.get_by_text("measurements (30), mean_radius")).to_be_visible()
    page.get_by_label("Columns", exact=True).fill("x=measurements, y=malignant")
    page.get_by_label("Passes over the data").fill("5")
    page.get_by_label("Epsilon").fill("2")
    page.get_by_label("Reason").fill("learn to tell malignant from benign cells")
    expect(page.locator("#price")).to_contain_text("of your 3")
    page.get_by_label("Plan file").set_input_files(PLAN)
    page.get_by_label("Model file").set_input_files(MODEL)
    ann.page.get_by_role("link", name="Requests").click()
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name=re.compile("^Job "))).to_be_visible()
    request = ann.page.get_by_role("link", name=re.compile(f"{BOB} asks to train"))
    request.click(timeout=60_000)  # it appears by itself
    expect(ann.page.get_by_text("It reads x")).to_be_visible()
    ann.check_access("request")
    ann.page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name="Result")).to_be_visible(timeout=120_000)
    bob.check_access("result of a training")
    page.get_by_role("link", name="Open the result").click()
    with page.expect_download() as saved:
        page.get_by_role("link", name=re.compile("Download")).click()
    path = tmp_path / "model"
    saved.value.save_as(path)
    arrays, _ = decode(path.read_bytes())
    assert arrays["linear.weight"].shape == (2, 30)
    assert float(abs(arrays["linear.weight"]).max()) > 0, "the first weights are zero"
    ann.close()
    bob.close()


def test_an_operator_of_a_network_by_mouse(chromium: Browser, app: App, tmp_path: Path) -> None:
    network = App(tmp_path / "network", kind="network")
    others = [App(tmp_path / name, "--id", name) for name in ("carol", "dave")]
    try:
        ann = Person(chromium, network.url, viewport={"width": 1280, "height": 1000})
        pygrid.client.connect_network(network.url).sign_up(ANN, PASSWORD)
        sign_in(ann, ANN)
        page = ann.page
        page.on("dialog", lambda dialog: dialog.accept())
        domains = []
        for one in (app, *others):
            domain = pygrid.client.connect(one.url)
            domain.sign_up(ANN, PASSWORD)
            domains.append(domain)
        page.get_by_role("link", name="Invitations").click()
        page.get_by_role("button", name=re.compile("Make|Invite")).first.click()
        (token,) = re.findall(r"PYGRID_INVITATION=(\S+)", page.locator(".shown-once pre").inner_text())
        domains[0].associations.join(network.url, token)
        for domain in domains[1:]:
            domain.associations.join(network.url)
        page.get_by_role("link", name="Domains", exact=True).click()
        expect(page.get_by_role("button", name="Accept")).to_have_count(2, timeout=60_000)
        card = page.locator("form", has_text="dave").first
        card.get_by_label("Reason").fill("nobody here knows dave")
        card.get_by_role("button", name="Deny").click()
        expect(page.get_by_role("button", name="Accept")).to_have_count(1)
        page.get_by_role("button", name="Accept").click()
        expect(page.get_by_role("button", name="Revoke")).to_have_count(2, timeout=60_000)
        expect(page.get_by_role("row", name=re.compile("carol"))).to_contain_text(re.compile("now|seconds? ago"))
        eventually_blocking(lambda: domains[2].associations()[0].state == "denied", 60)
        page.get_by_role("link", name="Search").click()
        page.get_by_role("searchbox").fill("cells")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="Relay").click()
        ann.check_access("relay")
        page.get_by_role("link", name="Domains", exact=True).click()
        row = page.get_by_role("row", name=re.compile("carol"))
        row.get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("row", name=re.compile("carol"))).to_contain_text("revoked")
        ann.close()
    finally:
        for one in (network, *others):
            one.stop()
