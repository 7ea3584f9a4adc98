"""Debian's Chromium, driven by Playwright, and what a page must never do in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize, sync_playwright

AXE = Path(__file__).parents[1] / "vendor" / "axe.js"
TIMEOUT_MS = 30_000
PHONE: ViewportSize = {"width": 360, "height": 740}
RUN_AXE = 'options => axe.run({resultTypes: ["violations"], ...options}).then(found => found.violations)'
COLORS = {"runOnly": ["cat.color"]}
ALL_BUT_COLORS = {"rules": {"color-contrast": {"enabled": False}}}
"""Options of axe. The contrast of colors takes most of the time."""
FLAGS = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]


def find_chromium() -> str:
    """The program; its tests need it."""
    found = os.environ.get("PYGRID_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no Chromium: apt-get install chromium, or set PYGRID_CHROMIUM to its path"
    return found


@contextmanager
def open_chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        yield browser
        browser.close()


class Person:
    """Somebody with a browser of their own; each page that they open is watched."""

    def __init__(self, browser: Browser, origin: str, **options: Any) -> None:
        self.origin = origin
        self.faults: list[str] = []
        self.context: BrowserContext = browser.new_context(base_url=origin, **options)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.open()

    def open(self, path: str | None = None) -> Page:
        """A new tab."""
        page = self.context.new_page()
        page.on("console", lambda message: self._note("console", f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("request", lambda request: self._check_origin(request.url))
        if path is not None:
            page.goto(path)
        return page

    def check_access(self, where: str) -> None:
        """axe finds nothing on the page."""
        self.page.evaluate(AXE.read_text())
        self._run_axe(where)

    def check_everywhere(self, where: str) -> None:
        """axe finds nothing on the page, in both themes and on a phone, and nothing scrolls sideways."""
        size = self.page.viewport_size
        assert size is not None
        self.check_access(where)
        self._check_width(where)
        # The theme changes colors alone.
        self.page.emulate_media(color_scheme="dark")
        self._run_axe(f"{where}, dark", COLORS)
        self.page.set_viewport_size(PHONE)
        self._run_axe(f"{where}, on a phone", ALL_BUT_COLORS)
        self._check_width(f"{where}, on a phone")
        self.page.set_viewport_size(size)
        self.page.emulate_media(color_scheme="null")

    def _run_axe(self, where: str, options: dict[str, Any] | None = None) -> None:
        for violation in self.page.evaluate(RUN_AXE, options or {}):
            parts = [node["html"][:150] for node in violation["nodes"][:3]]
            self._note("axe", f"{where}: {violation['id']}: {violation['help']} {parts}")

    def _check_width(self, where: str) -> None:
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{where} scrolls sideways"

    def close(self) -> None:
        self.context.close()
        assert self.faults == [], self.faults

    def _check_origin(self, url: str) -> None:
        if not url.startswith(self.origin):
            self._note("request", url)

    def _note(self, kind: str, text: str) -> None:
        self.faults.append(f"{kind}: {text}")


def shoot(person: Person, name: str, *, full_page: bool = True) -> None:
    """Save the page as a picture, if ``PYGRID_SCREENSHOTS`` names a folder."""
    folder = os.environ.get("PYGRID_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        person.page.screenshot(path=Path(folder) / f"console-{name}.png", full_page=full_page)


class StopWatch:
    """The seconds that a walk takes hands and eyes, by the keystroke-level model, while Playwright makes it.

    Source: Card, Moran and Newell, "The keystroke-level model for user performance time with interactive systems",
    Communications of the ACM 23 (1980): key 0.28 s, pointing 1.1 s, press or release of a button 0.1 s, hand between
    keyboard and mouse 0.4 s, thinking 1.35 s.
    """

    KEY_S, POINT_S, PRESS_S, HAND_S, THINK_S = 0.28, 1.1, 0.1, 0.4, 1.35

    def __init__(self) -> None:
        self.seconds = 0.0
        self._at_keyboard = False

    def click(self, target: Locator) -> None:
        target.click()
        self._point()

    def choose(self, target: Locator, option: str) -> None:
        """Open a list and click an option."""
        target.select_option(option)
        self._point()
        self.seconds += self.POINT_S + 2 * self.PRESS_S

    def type(self, target: Locator, text: str) -> None:
        """Click into a field and type."""
        target.press_sequentially(text)
        self._point()
        self.seconds += self.HAND_S + self.KEY_S * len(text)
        self._at_keyboard = True

    def read(self, num_thoughts: int) -> None:
        """Look at the page and understand so many things."""
        self.seconds += num_thoughts * self.THINK_S

    def report(self, walk: str, budget_s: float) -> None:
        """Print the sum, which must be within the budget."""
        print(f"{walk}: {self.seconds:.1f} s of hands and eyes, of {budget_s:g} s")
        assert self.seconds <= budget_s

    def _point(self) -> None:
        self.seconds += self.THINK_S + (self.HAND_S if self._at_keyboard else 0.0) + self.POINT_S + 2 * self.PRESS_S
        self._at_keyboard = False
