"""Which browser and system a ``User-Agent`` header names, in words for people."""

from __future__ import annotations

import re

MAX_HEADER = 500
"""Characters of the header that are read."""
_BROWSERS = (
    (("Edg/", "EdgA/", "EdgiOS/"), "Edge"),
    (("OPR/", "OPiOS/"), "Opera"),
    (("SamsungBrowser/",), "Samsung Internet"),
    (("Firefox/", "FxiOS/"), "Firefox"),
    (("Chrome/", "CriOS/", "Chromium/"), "Chrome"),
    (("Safari/",), "Safari"),
)
"""A browser also names those that it is compatible with, so the first match counts."""
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)
_PROGRAM = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,39}(?=[/ ]|$)", re.ASCII)


def describe_user_agent(header: str) -> str:
    """Return for example "Firefox on Windows"; for a program its name; empty: the header names neither.

    The header is the caller's claim. The result has at most 40 characters, of a fixed list or of ``A-Za-z0-9._-``.
    """
    text = header[:MAX_HEADER]
    system = next((words for mark, words in _SYSTEMS if mark in text), "")
    browser = next((words for marks, words in _BROWSERS if any(mark in text for mark in marks)), "")
    if browser:
        return f"{browser} on {system}" if system else browser
    program = _PROGRAM.match(text)
    if program is None or program[0] == "Mozilla":
        return f"a browser on {system}" if system else ""
    return program[0]
