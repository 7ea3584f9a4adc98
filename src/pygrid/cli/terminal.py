"""Lines of several speakers in one terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from pygrid.cli.output import line

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Terminal:
    """Prints lines with the name of who says them before, in a colour of its own if a person looks on."""

    def __init__(self, names: Sequence[str], out: TextIO) -> None:
        self._width = max([len(name) for name in names] + [len("pygrid")])
        self._out = out
        self._is_colourful = out.isatty() and not os.environ.get("NO_COLOR")
        self._colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}

    def say(self, name: str, text: str) -> None:
        """Print ``text``, one line, as said by ``name``; what is not one of the names is `pygrid up` itself."""
        label, text = f"{name:{self._width}} |", line(text)
        if self._is_colourful:
            label = f"\x1b[{self._colours.get(name, 1)}m{label}\x1b[0m"
        self._out.write(f"{label} {text}\n")
        self._out.flush()
