"""Text for people: numbers in readable units, and untrusted text made safe for a terminal."""

from __future__ import annotations


def human_bytes(size: int) -> str:
    """A number of bytes in a readable unit (powers of 1000)."""
    return _human(size, ("bytes", "kB", "MB", "GB", "TB"))


def human_count(number: int) -> str:
    """A number in thousands, millions or billions."""
    return _human(number, ("", "thousand", "million", "billion", "trillion"))


def printable(text: str) -> str:
    """Untrusted text without control characters; a terminal obeys some of them."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(text: str, max_length: int = 300) -> str:
    """The first line of a text, printable, at most ``max_length`` characters; for messages of other libraries."""
    lines = text.strip().splitlines()
    return printable(lines[0][:max_length]) if lines else "no reason given"


def _human(number: int, units: tuple[str, ...]) -> str:
    value, index = float(number), 0
    while value >= 1000 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    digits = f"{number}" if index == 0 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return f"{digits} {units[index]}".strip()
