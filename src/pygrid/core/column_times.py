"""Dates and times as numbers: days (date) or microseconds (datetime) since 1970-01-01 00:00 UTC.

A text is one of ISO 8601. A datetime without an offset is in UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Literal

from pygrid.messages.datasets import Dtype

Per = Literal["", "year", "month"]
"""The group of a date: the date itself, or its year or month."""

DAY_US = 86_400_000_000
"""Microseconds of a day."""
_DIRECTIVES = "YymdjbBHMSfzIp"
# With the first text, Python imports a module for this, which fails inside a sandbox.
dt.datetime.strptime("2000", "%Y")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def check_time_format(form: str, dtype: Dtype | None) -> None:
    """Raises ValueError: the format does not name a day, or the type is neither date nor datetime."""
    if dtype not in ("date", "datetime"):
        raise ValueError("only a column of type date or datetime has a format")
    directives = re.findall("%(.)", form.replace("%%", ""), re.DOTALL)
    for directive in directives:
        if directive not in _DIRECTIVES or directives.count(directive) > 1:
            raise ValueError(f"use each of these once at most: {', '.join(f'%{one}' for one in _DIRECTIVES)}")
    found = set(directives)
    if not found & {"Y", "y"} or not ("j" in found or (found & {"m", "b", "B"} and "d" in found)):
        raise ValueError("it must name year, month and day, for example %d.%m.%Y")
    if ("I" in found) != ("p" in found) or {"H", "I"} <= found:
        raise ValueError("use %H for hours of 0 to 23, or %I with %p for hours of 1 to 12")
    if len(form) > 50:
        raise ValueError("use at most 50 characters")


def read_time(text: str, dtype: Dtype, form: str = "") -> float:
    """The number of a date or datetime, exactly.

    Args:
        form: how the text is written, as `check_time_format` accepts it; empty: ISO 8601.
    Raises:
        ValueError: the text is neither, a date has a time of day, or float64 cannot hold the microseconds.
    """
    if form:
        return _number_of(dt.datetime.strptime(text, form), text, dtype)
    try:
        days = dt.date.fromisoformat(text).toordinal() - _EPOCH.toordinal()
    except ValueError:
        pass
    else:
        return float(days if dtype == "date" else days * DAY_US)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a {dtype}") from None
    if re.search(r"[.,]\d{6}\d*[1-9]", text):
        raise ValueError(f"{text!r} has parts of a second below a microsecond")
    return _number_of(moment, text, dtype)


def _number_of(moment: dt.datetime, text: str, dtype: Dtype) -> float:
    us = ((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND
    if dtype == "date":
        if us % DAY_US:
            raise ValueError(f"{text!r} has a time of day")
        return float(us // DAY_US)
    if int(float(us)) != us:
        raise ValueError(f"{text!r} has parts of a second and is not in the years 1684 to 2255")
    return float(us)


def write_time(number: float, dtype: Dtype) -> str:
    """The ISO 8601 text of a number of days or microseconds, rounded to whole ones; a number beyond the years 1 to 9999
    as it is.
    """
    try:
        moment = _EPOCH + (dt.timedelta(days=round(number)) if dtype == "date" else round(number) * _MICROSECOND)
    except (OverflowError, ValueError):
        return f"{number:g}"
    return (moment.date() if dtype == "date" else moment.replace(tzinfo=None)).isoformat()


def span_of(key: int | str, per: Per, dtype: Dtype) -> tuple[float, float]:
    """The numbers from the first (included) to the last (excluded) of a date, month (``2020-12``) or year.

    Raises:
        ValueError: the key is something else.
    """
    if per == "":
        begin = read_time(str(key), dtype)
        return begin, begin + 1
    try:
        year, month = (int(key), 1) if per == "year" else map(int, str(key).split("-"))
        first = dt.date(year, month, 1).toordinal()
    except ValueError:
        wanted = "a year such as 2020" if per == "year" else "a month such as '2020-12'"
        raise ValueError(f"{key!r} is not {wanted}") from None
    months = year * 12 + month - 1 + (12 if per == "year" else 1)
    # The first day of the year 10000 is not a date.
    last = dt.date(months // 12, months % 12 + 1, 1).toordinal() if months < 120_000 else dt.date.max.toordinal() + 1
    factor = 1 if dtype == "date" else DAY_US
    return (float(first - _EPOCH.toordinal()) * factor, float(last - _EPOCH.toordinal()) * factor)
