"""The walk of a compliance officer by keyboard alone, and without scripts, in a real browser.

Should happen: three decisions without a mouse; three decisions in a browser that runs no script.
Should not happen: an act that needs a script or a mouse; a request to another host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import pygrid.client
from pygrid.client.jobs import Job
from pygrid.client.statistics import count
from support.browser import Person, open_chromium
from support.console_app import App, owner, sign_in
from support.eventually import eventually_blocking
from support.web import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OFFICER = "officer@example.org"
MAX_TABS = 80


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A Domain with a budget, an officer, and a scientist."""
    app = App(tmp_path_factory.mktemp("keyboard") / "domain")
    ann = owner(app)
    ann.datasets.upload("patients", {"age": np.arange(20, 60, dtype=np.float32)}, visibility="listed")
    ann.datasets["patients"].policy(epsilon=8.0, delta=1e-6, epsilon_per_user=4.0)
    for email in (OFFICER, "bob@example.org"):
        pygrid.client.connect(app.url).sign_up(email, PASSWORD)
    ann.users.set_role(OFFICER, "Compliance Officer")
    yield app
    app.stop()


def ask_three(app: App) -> list[Job]:
    """Three requests that wait for a decision."""
    science = pygrid.client.connect(app.url)
    science.login("bob@example.org", PASSWORD)
    jobs = [science.statistics("patients", count(), reason="planning", epsilon=0.1, delta=1e-6) for _ in range(3)]
    eventually_blocking(lambda: all(job.info().state == "waiting" for job in jobs))
    return jobs


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the target has the focus."""
    for _ in range(MAX_TABS):
        if target.count() == 1 and target.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{target} has no place in the order of the keyboard")


def test_w2_by_keyboard_alone(chromium: Browser, app: App) -> None:
    jobs, officer = ask_three(app), Person(chromium, app.url)
    page = officer.page
    page.goto("/admin/login")
    tab_to(page, page.get_by_label("E-mail"))
    page.keyboard.type(OFFICER)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    for number in range(3):
        expect(page.get_by_role("heading", name=re.compile("^Request "))).to_be_visible()
        button = page.get_by_role("button", name="Approve", exact=True)
        expect(button).to_be_visible()
        tab_to(page, button)
        page.keyboard.press("Enter")
        expect(button).to_have_count(0)
        if number < 2:
            tab_to(page, page.get_by_role("link", name="Next request"))
            page.keyboard.press("Enter")
    eventually_blocking(lambda: all(job.info().state == "released" for job in jobs))
    officer.close()


def test_w2_without_scripts(chromium: Browser, app: App) -> None:
    jobs, officer = ask_three(app), Person(chromium, app.url, java_script_enabled=False)
    page = officer.page
    sign_in(officer, OFFICER)
    page.get_by_role("link", name="Requests").click()
    page.locator("tbody a[href^='/admin/jobs/']").first.click()
    page.get_by_label("Comment").fill("fine")
    page.get_by_role("button", name="Approve", exact=True).click()
    page.get_by_role("link", name="Next request").click()
    page.get_by_role("button", name="Deny", exact=True).click()
    page.get_by_role("link", name="Requests").click()
    page.get_by_label("Deny the request of").check()
    page.get_by_text("Deny the chosen requests").first.click()
    page.get_by_label("Reason").fill("not needed")
    page.get_by_role("button", name="Deny the chosen requests").click()
    expect(page.get_by_text("Nothing waits.")).to_be_visible()
    eventually_blocking(lambda: sorted(job.info().state for job in jobs) == ["denied", "denied", "released"])
    officer.close()
