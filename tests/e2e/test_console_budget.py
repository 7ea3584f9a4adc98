"""The page of a budget and lists that follow what happens, in a real browser.

Should happen: a form shows the fields of the chosen kind of job, also without scripts; `j` and `k` go from row to row,
from the row that has the focus; people and entries of the log appear by themselves; a one-time link is copied.
Should not happen: a shortcut while somebody types; a fault that axe finds in either theme.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

import pygrid.client
from pygrid.client.statistics import count
from support.browser import Person, open_chromium, shoot
from support.console_app import ANN, App, owner, sign_in
from support.eventually import eventually_blocking
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BOB, PAGE = "bob@example.org", "/admin/budgets/1"
TERMS = {"epsilon": 0.5, "delta": 1e-6}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A Domain on which two people have spent a part of a budget."""
    app = App(tmp_path_factory.mktemp("budget") / "domain")
    ann = owner(app)
    ann.datasets.upload("patients", {"age": np.arange(20, 60, dtype=np.float32)}, visibility="listed")
    ann.datasets["patients"].policy(epsilon=8.0, delta=1e-6, epsilon_per_user=4.0, auto_approve=True)
    for email in (BOB, "carol@example.org"):
        science = pygrid.client.connect(app.url)
        science.sign_up(email, PASSWORD)
        jobs = [science.statistics("patients", count(), reason="planning", **TERMS) for _ in range(2)]
        eventually_blocking(lambda jobs=jobs: all(job.info().state == "released" for job in jobs))
    yield app
    app.stop()


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_form_shows_the_fields_of_the_kind(chromium: Browser, app: App, scripts: bool) -> None:
    ann = Person(chromium, app.url, java_script_enabled=scripts)
    sign_in(ann, ANN)
    page = ann.page
    page.goto(PAGE)
    questions, passes = page.get_by_label("Statistics at once"), page.get_by_label("Passes over the data")
    expect(questions).to_be_visible()
    expect(passes).to_be_hidden()
    page.get_by_label("Kind").select_option("train")
    expect(questions).to_be_hidden()
    expect(passes).to_be_visible()
    passes.fill("2")
    page.get_by_role("button", name="Show the price").click()
    expect(page.get_by_role("group", name="Price")).to_contain_text("rounds")
    expect(passes).to_have_value("2")
    page.goto("/admin/ask/1?tab=model")
    plan, epsilon = page.get_by_label("Plan file"), page.get_by_label("Epsilon")
    expect(page.get_by_label("Passes over the data")).to_be_visible()
    page.get_by_label("What", exact=True).select_option("predict")
    for field in (page.get_by_label("Passes over the data"), plan, epsilon):
        expect(field).to_be_hidden()
    page.get_by_label("What", exact=True).select_option("evaluate")
    expect(page.get_by_label("Records in a batch")).to_be_hidden()
    expect(plan).to_be_visible()
    ann.close()


def test_keys_go_from_row_to_row(chromium: Browser, app: App) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    page = ann.page
    page.goto(PAGE)
    expect(page.get_by_role("status").first).to_have_text("Live")
    people, jobs = page.locator("tbody a[href^='/admin/people/']"), page.locator("tbody a[href^='/admin/jobs/']")
    expect(people).to_have_count(2)
    expect(jobs).to_have_count(4)
    for key, focused in (("j", people.nth(0)), ("j", people.nth(1)), ("j", jobs.nth(0)), ("k", people.nth(1))):
        page.keyboard.press(key)
        expect(focused).to_be_focused()
    # The row that has the focus counts, not the one that a key reached last.
    jobs.nth(2).focus()
    page.keyboard.press("j")
    expect(jobs.nth(3)).to_be_focused()
    page.keyboard.press("j")
    expect(jobs.nth(3)).to_be_focused()
    # Elsewhere, the keys go on from the last row; in a field they are letters.
    page.get_by_label("E-mail of the person").press_sequentially("jk/")
    expect(page.get_by_label("E-mail of the person")).to_have_value("jk/")
    page.get_by_role("link", name="Change the budget").focus()
    page.keyboard.press("k")
    expect(jobs.nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Request ")).to_be_visible()
    # The keys can be switched off, in this browser for good.
    page.keyboard.press("?")
    ann.check_access("help")
    page.get_by_role("button", name="Switch these keys off").click()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("/")
    expect(page.get_by_role("heading", name="Request ")).to_be_visible()
    page.goto(PAGE)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_role("button", name="Switch these keys on").click()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("/")
    expect(page.get_by_role("heading", name="Search")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Words")).to_be_focused()
    ann.close()


def test_people_and_entries_appear_by_themselves(chromium: Browser, app: App) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    page = ann.page
    page.goto("/admin/people")
    expect(page.get_by_role("status").first).to_have_text("Live")
    page.get_by_label("Invite somebody").fill("dora@example.org")
    log = ann.open("/admin/audit")
    page.get_by_role("button", name="Make a link").click()
    ann.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".shown-once").get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".shown-once pre").inner_text()
    # The page of a form follows too.
    expect(page.get_by_role("status").first).to_contain_text("Live")
    expect(log.locator("tbody tr").first).to_contain_text("invited a person")
    pygrid.client.connect(app.url).sign_up("eve@example.org", PASSWORD)
    expect(page.get_by_role("link", name="eve@example.org")).to_be_visible()
    expect(page.get_by_role("rowheader", name="dora@example.org")).to_be_visible()
    pygrid.client.connect(app.url).sign_up("fay@example.org", PASSWORD)
    expect(page.get_by_role("link", name="fay@example.org")).to_be_visible()
    expect(log.locator("#rows")).to_contain_text("opened account fay@example.org")
    ann.close()


def test_the_page_of_a_budget_can_be_used_by_everybody(chromium: Browser, app: App) -> None:
    ann = Person(chromium, app.url)
    sign_in(ann, ANN)
    for path in (f"{PAGE}?kind=statistics&epsilon=0.5", "/admin/budgets", "/admin/ask/1?tab=model"):
        ann.page.goto(path)
        ann.check_everywhere(path)
        if path.startswith(PAGE):
            shoot(ann, "spending")
    ann.close()
