"""Lists in pages of 100 rows: the address of the next page has the key of the last row."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from pygrid.web.requests import AppRequest

PAGE_ROWS = 100


class Paging(msgspec.Struct, frozen=True):
    """Where the other pages of a list are, and its rows as files; empty: there is none."""

    next: str
    first: str
    csv: str = ""
    json: str = ""


def find_cursor(given: str) -> int | None:
    """Return the key of the last row of the page before; None: this is the first page."""
    return int(given) if given.isascii() and given.isdecimal() and 1 <= len(given) <= 9 else None


def make_paging(
    request: AppRequest, last: int | str | None, name: str = "before", *, has_files: bool = False, path: str = ""
) -> Paging:
    """Return the addresses of the other pages, with the filters of this one.

    Args:
        last: key of the last row, if there are more rows.
        name: parameter that has the key.
        has_files: the page also answers with CSV and JSON.
        path: of the list, if the request is for another address.
    """
    given = [(key, value) for key, value in request.query_params.multi_items() if key not in ("part", "format")]
    filters = [(key, value) for key, value in given if key != name]
    path = path or request.url.path
    following = "" if last is None else f"{path}?{urlencode([*filters, (name, str(last))])}"
    first = _address(path, filters) if request.query_params.get(name) else ""
    files = [f"{path}?{urlencode([*given, ('format', kind)])}" if has_files else "" for kind in ("csv", "json")]
    return Paging(following, first, *files)


def _address(path: str, query: list[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
