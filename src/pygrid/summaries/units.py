"""Numbers as people read them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 report``, ``1,437 examples``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(num_bytes: int) -> str:
    """A number of bytes with three digits: ``812 B``, ``15.2 kB``, ``1.24 GB``."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
