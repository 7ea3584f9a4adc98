"""Texts of a file as dates, datetimes or truth values, where the owner declared such a column."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import re
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.core.column_times import read_time
from pygrid.core.datasets import Column, Dtype
from pygrid.errors import InvalidDataset

MISSING_WORDS = ("", "NA", "N/A", "nan", "NaN", "null")
"""Texts that stand for a missing value where the type of the column has missing values."""
FROM_TEXT: frozenset[Dtype] = frozenset({"text", "category", "date", "datetime", "bool"})
"""Types that a column of texts can be declared as."""
_BOOLS = {
    **dict.fromkeys(("true", "t", "yes", "y", "ja", "on", "1", "1.0"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "nein", "off", "0", "0.0"), 0.0),
}
_USUAL = re.split(
    " ", "%d.%m.%Y %d/%m/%Y %m/%d/%Y %d-%m-%Y %Y/%m/%d %Y.%m.%d %Y-%m-%d %d-%b-%Y %d.%m.%y %d/%m/%y %m/%d/%y"
)
_USUAL_TIMES = (" %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", "")
_WANTED: dict[Dtype, str] = {
    "bool": f"use {', '.join(_BOOLS)}, or declare it as category, which has any words",
    "date": "write dates as 2020-12-31",
    "datetime": "write times as 2020-12-31T23:59:59, with an offset such as +01:00 or in UTC",
}


def read_texts(
    texts: Sequence[str], column: Column, missing: Collection[str] = MISSING_WORDS
) -> npt.NDArray[np.float64]:
    """The stored number of each text; NaN for a missing one.

    Args:
        column: of type date, datetime or bool.
        missing: the texts that stand for a missing value.
    Raises:
        InvalidDataset: ``dataset_dtype``: a text is of another type. The field ``value`` holds it.
    """
    stripped = (text if text in missing else text.strip() for text in texts)
    return np.array([math.nan if text in missing else _read(text, column) for text in stripped], np.float64)


def _read(text: str, column: Column) -> float:
    why, dtype = "", column.dtype
    try:
        if dtype != "bool":
            return read_time(text, dtype, column.format)
        if (found := _BOOLS.get(text.lower())) is not None:
            return found
    except ValueError as error:
        if "time of day" in str(error):
            why = " (it has a time of day, so declare the column as datetime)"
        elif "parts of a second" in str(error):
            why = f" ({error})"
    wanted = f"it is declared with format={column.format}" if column.format else _WANTED[dtype]
    if dtype != "bool" and (forms := _fitting_forms(text, dtype)) and column.format not in forms:
        wanted += f", or declare {' or '.join(f'format={form}' for form in forms)}"
    raise InvalidDataset(
        f"column {column.name!r} is declared as {dtype}, and {text[:50]!r} is not one{why}; {wanted}",
        code=codes.DATASET_DTYPE,
        column=column.name,
        dtype=dtype,
        value=text[:200],
    )


def _fitting_forms(text: str, dtype: Dtype) -> list[str]:
    """Usual formats that a text has."""
    found = []
    for form in _USUAL if dtype == "date" else (f"{day}{time}" for day in _USUAL for time in _USUAL_TIMES):
        with contextlib.suppress(ValueError):
            dt.datetime.strptime(text, form)
            found.append(form)
    return found
