"""All output of the commands. Untrusted text loses what a terminal would obey.

Names, descriptions, error texts of servers and contents of files are untrusted: they can contain control characters and
escape sequences, which move the cursor or write to the clipboard; marks that reverse the direction of text; and line
breaks that fake lines of this program. `pygrid.plans.text.printable` replaces them.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygrid.client.display.tables import Table


def say(text: object = "", *, err: bool = False, label: str = "") -> None:
    """Print one line, to standard error if ``err``; a line break in it is replaced.

    Args:
        label: trusted text before the line, which can contain colors.
    """
    # One write for the line and its end: other threads print, too.
    print(f"{label}{line(text)}\n", end="", file=sys.stderr if err else sys.stdout, flush=True)


def say_lines(text: object, *, indent: str = "", hanging: str = "", err: bool = False) -> None:
    """Print a text of several lines.

    Args:
        indent: before each line. Untrusted text gets one, or ``hanging``, so that it fakes no line of this program.
        hanging: before each line but the first.
    """
    for number, part in enumerate(str(text).split("\n")):
        say(f"{hanging if number else indent}{line(part)}", err=err)


def say_json(value: Any) -> None:
    """Print a message, or several, as JSON for scripts. Unsafe characters are escaped, so the value is the same."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    say_lines(_UNSAFE.sub(lambda match: _escaped(match[0]), text))


def say_table(table: Table[Any], empty: str = "") -> None:
    """Print a table as wide as the terminal; in a pipe, whole values separated by tabs.

    Args:
        empty: the line to print if the table has no items.
    """
    if not table:
        say(empty)
    else:
        say_lines(table.text(terminal_width()) if is_terminal() else table.tsv())


def say_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line; in a pipe, without folding."""
    from pygrid.client.display.tables import text_facts

    say_lines(text_facts(facts, terminal_width() if is_terminal() else None))


def say_text(text: str) -> None:
    """Print a text, folded between words on a terminal."""
    say_lines(textwrap.fill(text, terminal_width(), break_long_words=False) if is_terminal() else text)


def is_terminal() -> bool:
    """Whether a person sees the output."""
    return sys.stdout.isatty()


def terminal_width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size().columns


def line(text: object) -> str:
    """The text as one line that is safe to print."""
    from pygrid.plans.text import printable  # here, so that help is fast

    return printable(str(text)).replace("\n", "\N{REPLACEMENT CHARACTER}")


_UNSAFE = re.compile(r"[^\x20-\x7e\n]")


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
