"""Walks of a data owner and of a compliance officer through the console, in a real browser, with a stop-watch.

Should happen: W1, from an empty Domain to a released private answer, takes at most 90 s of hands and eyes and 15 s of
machine; W2, from the sign-in to the third decision, at most 40 s; pages of the owner pass axe in both themes and on
a phone; an upload shows its progress.
Should not happen: a request to another host, a violation of the policy, a horizontal scroll bar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

import pygrid.client
from pygrid.client.statistics import count, mean
from support.browser import Person, open_chromium, shoot
from support.console_app import ANN, App, sign_in
from support.eventually import eventually_blocking
from support.keystrokes import StopWatch
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BOB, OFFICER = "bob@example.org", "officer@example.org"
expect.set_options(timeout=30_000)
TERMS = {"epsilon": 0.5, "delta": 1e-6}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("walks") / "domain")
    yield app
    app.stop()


def button(person: Person, name: str) -> Locator:
    return person.page.get_by_role("button", name=name, exact=True)


def test_w1_from_nothing_to_a_released_private_answer(chromium: Browser, app: App) -> None:
    watch, bob = StopWatch(), Person(chromium, app.url)
    ann = Person(chromium, app.url, viewport={"width": 1280, "height": 1100})
    page = ann.page
    watch.paste_address(page, "/admin/", "open the printed link")
    watch.type(page.get_by_label("E-mail"), ANN, "e-mail of the Owner")
    watch.type(page.get_by_label("Password"), PASSWORD, "password of the Owner")
    expect(page.get_by_label("Load a sample dataset")).to_be_checked()
    ann.check_access("set-up")
    watch.click(button(ann, "Make me the Owner"), "become the Owner", think=False)
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
    watch.click(page.get_by_role("link", name="Open a budget"), "to the budget of the sample")
    watch.click(page.get_by_role("button", name="Usual"), "choose the usual budget")
    expect(page.get_by_text("can become at most 95% sure")).to_be_visible()
    watch.click(page.get_by_role("link", name="People"), "to the people")
    watch.type(page.get_by_label("Invite somebody"), BOB, "e-mail of the scientist")
    watch.click(button(ann, "Make a link"), "make an invitation", think=False)
    (link,) = re.findall(r"http://\S+/admin/join/\S+", page.locator(".shown-once pre").inner_text())
    watch.paste_address(bob.page, link, "the scientist opens the link")
    watch.type(bob.page.get_by_label("Password"), PASSWORD, "password of the scientist")
    watch.click(button(bob, "Make my account"), "make the account", think=False)
    watch.click(bob.page.get_by_role("link", name="Datasets"), "to the datasets")
    watch.click(bob.page.get_by_role("link", name="cells"), "to the sample")
    ask(bob, watch)
    watch.click(page.get_by_role("link", name="Requests"), "the Owner opens the queue")
    request = page.get_by_role("link", name=re.compile(f"{BOB} asks for"))
    watch.click(request, "open the request")
    watch.read(5.0, "read the request")
    shoot(ann, "request", full_page=False)
    watch.click(button(ann, "Approve"), "approve", think=False)
    expect(page.locator("#job .badge").first).not_to_contain_text("waits for a decision")
    watch.wait_for(bob.page.get_by_role("heading", name="Result"))  # by itself
    watch.read(1.35, "see the answer")
    print(watch.report("W1"))
    assert watch.human_s <= 90.0, watch.report("W1")
    ann.close()
    bob.close()


def ask(bob: Person, watch: StopWatch) -> None:
    """The scientist asks for a mean by a column, in the form of the dataset."""
    page = bob.page
    watch.click(page.get_by_role("link", name="Ask this dataset"), "to the question")
    watch.choose(page.locator("#kind0"), "mean", "the mean")
    watch.choose(page.locator("#column0"), "mean_radius", "of a column")
    watch.choose(page.locator("#by0"), "malignant", "by another")
    watch.type(page.locator("#keys0"), "0, 1", "its values")
    watch.type(page.get_by_label("Epsilon"), "0.5", "epsilon")
    watch.type(page.get_by_label("Reason"), "planning", "the reason")
    watch.click(button(bob, "Submit"), "submit", think=False)
    expect(page.get_by_role("heading", name=re.compile("^Job "))).to_be_visible()


@pytest.fixture(scope="module")
def science(app: App) -> pygrid.client.DomainClient:
    """A scientist with an account, and data of the owner to ask about. Needs the walk W1."""
    domain = pygrid.client.connect(app.url)
    domain.login(BOB, PASSWORD)
    return domain


def test_w2_three_decisions(chromium: Browser, app: App, science: pygrid.client.DomainClient) -> None:
    owner = pygrid.client.connect(app.url)
    owner.login(ANN, PASSWORD)
    pygrid.client.connect(app.url).sign_up(OFFICER, PASSWORD)
    owner.users.set_role(OFFICER, "Compliance Officer")
    query = mean("mean_radius", lower=0, upper=60)
    jobs = [science.statistics("cells", query, reason=f"request {number}", **TERMS) for number in range(3)]
    eventually_blocking(lambda: all(job.info().state == "waiting" for job in jobs))
    watch, officer = StopWatch(), Person(chromium, app.url)
    page = officer.page
    watch.paste_address(page, "/admin/login", "open the console")
    watch.type(page.get_by_label("E-mail"), OFFICER, "e-mail")
    watch.type(page.get_by_label("Password"), PASSWORD, "password")
    watch.click(button(officer, "Sign in"), "sign in")
    watch.click(
        page.get_by_role("link", name=re.compile("asks for the mean of mean_radius")).first, "the first request"
    )
    for number in range(3):
        expect(page.locator(".claim").get_by_text(f"request {number}")).to_be_visible()
        watch.read(1.35, "read")
        watch.click(button(officer, "Approve"), "approve", think=False)
        if number < 2:
            watch.click(page.get_by_role("link", name="Next request"), "next")
    expect(page.get_by_text("waits for a decision")).to_have_count(0)
    print(watch.report("W2"))
    assert watch.human_s <= 40.0, watch.report("W2")
    eventually_blocking(lambda: all(job.info().state == "released" for job in jobs))
    officer.close()


def test_an_upload_shows_its_progress_and_what_is_in_the_file(chromium: Browser, app: App, tmp_path: Path) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    page = ann.page
    file = tmp_path / "patients.csv"
    file.write_text("age,ward,mrn\n" + "".join(f"{20 + n % 60},{'ABC'[n % 3]},m{n:05d}\n" for n in range(2000)))
    page.goto("/admin/datasets/new")
    ann.check_access("upload")
    page.get_by_label("File").set_input_files(file)
    expect(page.get_by_role("heading", name="Describe the data")).to_be_visible()
    expect(page.get_by_text("2,000 records, 3 columns")).to_be_visible()
    page.get_by_label("Minimum of age").fill("0")
    page.get_by_label("Maximum of age").fill("120")
    page.get_by_label("Keep mrn").uncheck()
    button(ann, "Check again").click()
    expect(page.get_by_role("cell", name="left out")).to_be_visible()
    page.get_by_text("Change several columns at once").click()
    ann.check_everywhere("describe")
    page.get_by_text("Change several columns at once").click()
    shoot(ann, "upload")
    page.get_by_label("Who sees it").select_option("listed")
    button(ann, "Store the dataset").click()
    expect(page.get_by_role("heading", name="patients")).to_be_visible()
    page.get_by_role("link", name="Your data").click()
    page.get_by_text("2,000 values").first.click()
    ann.check_access("profile")
    shoot(ann, "profile")
    ann.close()


def test_an_upload_is_cancelled_and_tried_again(chromium: Browser, app: App, tmp_path: Path) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    page = ann.page
    file = tmp_path / "rows.csv"
    file.write_text("age\n" + "".join(f"{20 + n % 60}\n" for n in range(1_000_000)))
    page.goto("/admin/datasets/new")
    network = ann.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 100_000}
    network.send("Network.emulateNetworkConditions", slow)
    page.get_by_label("File").set_input_files(file)
    expect(page.get_by_text(re.compile(r" of 3\.0 MB, .*/s, \d+ s left"))).to_be_visible()
    ann.check_access("uploading")
    button(ann, "Cancel").click()
    expect(page.get_by_text("Cancelled. Nothing was kept.")).to_be_visible()
    network.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    button(ann, "Try again").click()
    expect(page.get_by_text("1,000,000 records, 1 column")).to_be_visible()
    ann.close()


def test_pages_of_the_owner_can_be_used_by_everybody(
    chromium: Browser, app: App, science: pygrid.client.DomainClient
) -> None:
    """Pages that show what the walks left. `test_console_access` opens all pages."""
    job = science.statistics("cells", count(), reason="how many records are there?")
    eventually_blocking(lambda: job.info().state == "waiting")
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    paths = {
        "dashboard": "/admin/",
        "requests": "/admin/requests",
        "request": f"/admin/jobs/{job.id}",
        "datasets": "/admin/datasets",
        "dataset": "/admin/datasets/1",
        "columns": "/admin/datasets/1?tab=columns",
        "mock": "/admin/datasets/1?tab=mock",
        "data": "/admin/datasets/1?tab=data",
        "versions": "/admin/datasets/1?tab=versions",
        "budget": "/admin/datasets/1?tab=budget",
        "dataset-requests": "/admin/datasets/1?tab=requests",
        "people": "/admin/people",
        "person": "/admin/people/2",
        "audit": "/admin/audit",
    }
    for where, path in paths.items():
        ann.page.goto(path)
        ann.check_everywhere(where)
        if where in ("dashboard", "budget", "people"):
            shoot(ann, where)
    ann.close()
