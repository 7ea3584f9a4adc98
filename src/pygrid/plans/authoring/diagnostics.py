"""Messages for authors: which line of their source cannot become part of a plan, why, and what to write instead."""

from __future__ import annotations

import linecache
import site
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from pygrid.errors import AuthoringError

_PYGRID = str(Path(__file__).parents[2])
_TORCH = str(Path(torch.__file__).parent)
_LIBRARIES = tuple({*site.getsitepackages(), sysconfig.get_path("stdlib"), _TORCH, _PYGRID})
_CALLER = str(Path(__file__).with_name("programs.py"))
"""Authors' functions are called from programs.py; the frames below it on the stack called `build`."""
_SIZE_ARITHMETIC = tuple(
    str(Path(_TORCH, *part))
    for part in (("fx",), ("__init__.py",), ("utils", "_stats.py"), ("_ops.py",), ("overrides.py",))
)
"""Files of torch that evaluate a comparison for the code that contains it."""


@dataclass(frozen=True)
class SourceLocation:
    """A line of the author's source."""

    file: str
    line: int

    @property
    def source(self) -> str:
        return linecache.getline(self.file, self.line).strip()


def is_author_file(file: str) -> bool:
    """Whether a file belongs to the author, not to Python, torch, an installed package or this package."""
    return not file.startswith(("<", *_LIBRARIES))


def current_place() -> SourceLocation | None:
    """The innermost line of the author's code that runs now; None outside of the author's function and model."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != _CALLER:
        if is_author_file(frame.f_code.co_filename):
            return SourceLocation(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def decided_by_torch() -> bool:
    """Whether torch, not code that calls torch, contains the comparison of sizes that is evaluated now."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_PYGRID, *_SIZE_ARITHMETIC)):
            return file.startswith(_TORCH)
        frame = frame.f_back  # type: ignore[assignment]
    return True


def place_of_error(error: BaseException) -> SourceLocation | None:
    """The innermost line of the author's code in a traceback."""
    found = None
    trace: TracebackType | None = error.__traceback__
    for frame, line in traceback.walk_tb(trace):
        if is_author_file(frame.f_code.co_filename):
            found = SourceLocation(frame.f_code.co_filename, line)
    return found


def authoring_error(reason: str, place: SourceLocation | None, *, code: str, **fields: Any) -> AuthoringError:
    """An error with the message ``line N: reason`` and the source line; ``file`` and ``line`` are its fields."""
    if place is None:
        return AuthoringError(reason, code=code, **fields)
    message = f"line {place.line}: {reason}\n    {place.source}\n    ({place.file}:{place.line})"
    return AuthoringError(message, code=code, file=place.file, line=place.line, source=place.source, **fields)
