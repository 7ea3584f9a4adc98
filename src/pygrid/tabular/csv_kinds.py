"""What a column of a CSV file holds: the first of int64, float64, bool and text that all its values fit.

A value is missing (empty, ``NA`` and the like), a word of bool, a whole number that int64 holds, another number, or anything
else. What kinds of values a column has seen decides what it holds, whatever their order:

    whole numbers                                   int64
    numbers, whole or not, or missing               float64, where what is missing is NaN
    ``true`` and ``false``, none missing            bool
    any other mixture                               text, as it stands in the file

``007`` is no number, as it would not come back the same; nor is ``inf``, or ``1e400``, which would become that. A
formula is a text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pygrid.tabular.table_writer import Piece

Kind = Literal["int64", "float64", "bool", "text"]

NOTHING, MISSING, BOOL, INT, FLOAT, OTHER = 0, 1, 2, 4, 8, 16
"""What a column has seen: a sum of these. Where there is a FLOAT or an OTHER, those before it need not be told apart."""

MISSING_WORDS = frozenset(("", "NA", "N/A", "nan", "NaN", "null"))
BOOLS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
INT_CHARS = b"0123456789+-"
FLOAT_CHARS = INT_CHARS + b".eE"
_LEADING_ZERO = re.compile(r"\n[+-]?0[0-9]")


@dataclass(frozen=True)
class ColumnStats:
    """The values of a column in a piece of the file: what they are, and what they are as the kind that was asked for.

    ``values`` means something only if they, with all that the column has seen before, are of that kind.
    """

    seen: int
    values: Piece


def kind_of(seen: int) -> Kind:
    """What a column holds that has seen this."""
    if seen & OTHER or (seen & BOOL and seen != BOOL):
        return "text"
    if seen == BOOL:
        return "bool"
    return "int64" if seen == INT else "float64"


def look(values: Sequence[str], kind: Kind) -> ColumnStats:
    """Look at values one by one, as texts; one or more."""
    if kind == "text":
        return ColumnStats(OTHER, values)
    is_complete = MISSING_WORDS.isdisjoint(values)
    present = values if is_complete else [value for value in values if value not in MISSING_WORDS]
    missing = NOTHING if is_complete else MISSING
    if not present:
        return ColumnStats(missing, np.full(len(values), np.nan))
    if present[0] in BOOLS and BOOLS.keys() >= set(present):
        return ColumnStats(BOOL | missing, np.array([BOOLS.get(value, False) for value in values]))
    # ColumnStats at all together, as Python's own loop over the values would take most of the time.
    joined = "\n" + "\n".join(present)
    text = joined.encode()
    if (
        text.translate(None, FLOAT_CHARS + b"\n")
        or joined.count("\n") != len(present)  # a line end within a value, which Python's int and float would strip
        or _LEADING_ZERO.search(joined)
    ):
        return ColumnStats(OTHER, values)
    if not text.translate(None, INT_CHARS + b"\n"):
        whole = _parsed(int, present, np.int64)
        if whole is not None and is_complete and kind == "int64":
            return ColumnStats(INT, whole)
        if whole is not None:
            return ColumnStats(INT | missing, _floats(values))
    numbers = _parsed(float, present, np.float64)
    if numbers is None or np.isinf(numbers).any():
        return ColumnStats(OTHER, values)
    return ColumnStats(FLOAT | missing, numbers if is_complete else _floats(values))


def _floats(values: Sequence[str]) -> npt.NDArray[Any]:
    return np.fromiter((float("nan" if value in MISSING_WORDS else value) for value in values), np.float64, len(values))


def _parsed(parse: Callable[[str], object], values: Sequence[str], dtype: type[Any]) -> npt.NDArray[Any] | None:
    try:
        return np.fromiter(map(parse, values), dtype, len(values))
    except (ValueError, OverflowError):
        return None
