"""Numbers as people read them."""

from __future__ import annotations

import math


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 report``, ``1,437 examples``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(num_bytes: int) -> str:
    """A number of bytes with three digits: ``812 B``, ``15.2 kB``, ``1.24 GB``."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{decimal(value, 3)} {units[0]}"


def decimal(value: float, digits: int = 6) -> str:
    """A number with this number of significant digits: ``0.35``, ``0.000001``, ``1,235``.

    Digits before the point are all shown; powers of ten only from 1e15 on, and below 1e-9.
    """
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() or abs(value) >= 10**digits - 0.5:
        return f"{round(value):,}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    if 1e-9 <= abs(value) < 1e-4:
        return f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}".rstrip("0")
    return f"{value:,.{digits}g}"


def chance(probability: float) -> str:
    """A small probability: ``1 in 1,000,000``; three significant digits."""
    return f"1 in {float(f'{1 / probability:.3g}'):,.0f}"
