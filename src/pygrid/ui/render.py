"""Templates, and how values are shown in them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pygrid import codes
from pygrid.errors import NotFound
from pygrid.plans.text import printable
from pygrid.units import counted, decimal, size

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"
_MACROS = ("one_time_link", "badge", "field", "file", "error", "bar", "snippet", "pages", "figure")
MAX_SHOWN = 500
"""Characters of a foreign text that are shown before it is folded."""
MAX_RELATIVE_S = 60 * 86400.0
_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))

_Source = tuple[str, str, Callable[[], bool]]


def _read_all() -> dict[str, _Source]:
    """The text and the path of each template by its name. They stay as they are when a later version is installed."""
    paths = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*.html")}
    return {name: (path.read_text(encoding="utf-8"), str(path), lambda: True) for name, path in paths.items()}


class Renderer:
    """The templates of the console: all files are read here, and each is compiled when it is first rendered.

    Args:
        url_of: the address of a static file by its name.
    """

    def __init__(self, url_of: Callable[[str], str]) -> None:
        self._sources = _read_all()
        self._url_of = url_of

    @cached_property
    def _templates(self) -> Environment:
        # An app starts without the engine, which takes 40 ms: nobody may ever ask for a page.
        from jinja2 import Environment, FunctionLoader, StrictUndefined

        templates = Environment(
            loader=FunctionLoader(self._sources.get),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        templates.globals.update(static=self._url_of)
        templates.filters.update(
            text=show_text,
            plain=printable,
            number=show_number,
            typed=show_typed,
            counted=counted,
            when=show_time,
            moment=show_moment,
            size=show_size,
            percent=show_percent,
            slug=slug,
        )
        # Global, as a block that is rendered alone runs no imports of its template.
        macros = templates.get_template("macros.html").module
        templates.globals.update({name: getattr(macros, name) for name in _MACROS})
        evidence = templates.get_template("evidence.html").module
        for name in ("preview", "facts", "plan"):
            templates.globals[f"evidence_{name}"] = getattr(evidence, name)
        return templates

    def render(self, template: str, part: str = "", **values: Any) -> str:
        """Return the HTML of a template, or of one block of it.

        Raises:
            NotFound: ``page_part_not_found``: the template has no such block.
        """
        found = self._templates.get_template(template)
        if not part:
            return found.render(**values)
        if part not in found.blocks:
            raise NotFound("the page has no such part", code=codes.PAGE_PART_NOT_FOUND)
        return "".join(found.blocks[part](found.new_context(values)))


def show_text(text: object) -> Markup:
    """Return a text that somebody else wrote: printable, isolated from the direction of its neighbours, folded."""
    shown = printable(str(text))
    if len(shown) <= MAX_SHOWN:
        return Markup("<bdi>{}</bdi>").format(shown)
    return Markup("<details><summary><bdi>{}</bdi> ...</summary><bdi>{}</bdi></details>").format(
        shown[:MAX_SHOWN], shown
    )


def show_number(value: float | None, digits: int = 3) -> str:
    """Return a number as `decimal`; a dash for none."""
    return "-" if value is None else decimal(value, digits)


def show_typed(value: float) -> str:
    """Return a number as somebody would type it, exactly: a form that is sent back changes nothing."""
    return f"{Decimal(repr(value)):f}".removesuffix(".0")


def show_percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.3g}%"


def slug(text: str) -> str:
    """Return a text as a part of an id: letters, digits and dashes."""
    return "".join(character if character.isalnum() else "-" for character in text)


def show_size(num_bytes: float | None) -> str:
    """Return a number of bytes in a unit of its magnitude."""
    return "-" if num_bytes is None else size(round(num_bytes))


def show_time(moment: dt.datetime | None, now: dt.datetime | None = None) -> Markup:
    """Return a time as the time since then, or as a date if that is long; the UTC time is in the title."""
    if moment is None:
        return Markup("-")
    since_s = ((now or dt.datetime.now(dt.UTC)) - moment).total_seconds()
    words = _length(abs(since_s))
    shown = "now" if abs(since_s) < 1 else f"{words} ago" if since_s > 0 else f"in {words}"
    if abs(since_s) >= MAX_RELATIVE_S:
        shown = moment.astimezone(dt.UTC).strftime("%Y-%m-%d")
    stamp = escape(moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(stamp, shown)


def show_moment(seconds: float) -> str:
    """Return a time, in seconds since 1970, as a UTC date and time."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _length(seconds: float) -> str:
    unit, unit_s = next((one for one in _UNITS if seconds >= one[1]), _UNITS[-1])
    return counted(round(seconds / unit_s), unit)
