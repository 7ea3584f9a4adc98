"""The time that an expert needs for a walk, by the keystroke-level model, next to the time of the machine.

Source: Card, Moran, Newell, The keystroke-level model for user performance time, CACM 23(7), 1980.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page

KEY_S, POINT_S, PRESS_S, HAND_S, THINK_S = 0.28, 1.1, 0.1, 0.4, 1.35


class StopWatch:
    """Acts of one person, or of several one after the other, with their times.

    Typing an e-mail or a password counts each key, as if no browser filled them in.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self.machine_s = 0.0
        self._hand_on_keys = False

    @property
    def human_s(self) -> float:
        return sum(seconds for _, seconds in self.steps)

    def click(self, target: Locator, words: str, *, think: bool = True) -> None:
        """Look for a thing, point at it, press.

        Args:
            think: False for a button that follows from what was done before it, such as the one of a filled form.
        """
        self._add(words, THINK_S * think + HAND_S * self._hand_on_keys + POINT_S + PRESS_S)
        self._hand_on_keys = False
        with self._machine():
            target.click()

    def type(self, target: Locator, text: str, words: str) -> None:
        """Point at a field and type a text into it."""
        self._add(words, POINT_S + PRESS_S + HAND_S + KEY_S * len(text))
        self._hand_on_keys = True
        with self._machine():
            target.fill(text)

    def choose(self, target: Locator, label: str, words: str) -> None:
        """Open a list and choose an entry."""
        self._add(words, THINK_S + HAND_S * self._hand_on_keys + 2 * (POINT_S + PRESS_S))
        self._hand_on_keys = False
        with self._machine():
            target.select_option(label=label)

    def paste_address(self, page: Page, address: str, words: str) -> None:
        """Open a link that somebody sent: point at it, press."""
        self._add(words, THINK_S + POINT_S + PRESS_S)
        with self._machine():
            page.goto(address)

    def read(self, seconds: float, words: str) -> None:
        """Read; nothing is pressed."""
        self._add(words, seconds)

    def wait_for(self, target: Locator) -> None:
        """Wait until the machine shows something."""
        with self._machine():
            target.wait_for()

    def report(self, name: str) -> str:
        lines = [f"{name}: {self.human_s:.1f} s of hands and eyes, {self.machine_s:.1f} s of machine"]
        return "\n".join([*lines, *(f"  {seconds:5.1f} s  {words}" for words, seconds in self.steps)])

    def _add(self, words: str, seconds: float) -> None:
        self.steps.append((words, seconds))

    @contextmanager
    def _machine(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.machine_s += time.monotonic() - begin
