"""Messages for authors: which line of their source cannot become part of a plan, why, and what to write instead."""

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import logging
import re
import site
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

from pygrid import codes
from pygrid.errors import AuthoringError, PygridError

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
_CALLS_ON_BEHALF = tuple(
    str(Path(_TORCH, *part)) for part in (("_tensor.py",), ("overrides.py",), ("_ops.py",), ("utils", "_device.py"))
)
"""Files of torch that pass a call on for the code that makes it."""
_MAX_TEXT = 500

P = ParamSpec("P")
R = TypeVar("R")


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


def caller_place() -> SourceLocation | None:
    """The innermost line of the author's code on the stack: the call of `build`, or a declaration."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_author_file(frame.f_code.co_filename):
            return SourceLocation(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def place_of_function(function: Any) -> SourceLocation | None:
    """The first line of a function; None if it is not written in Python."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return None if code is None else SourceLocation(code.co_filename, code.co_firstlineno)


def torch_caller() -> str:
    """The function of torch that made the call which is intercepted now; empty if the author's own code made it."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_PYGRID, *_CALLS_ON_BEHALF)):
            inside = file.startswith(_TORCH)
            return f"{frame.f_code.co_qualname}, torch{file[len(_TORCH) :]}:{frame.f_lineno}" if inside else ""
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def described(error: BaseException) -> str:
    """An error in words; one without a message by the line that raised it."""
    kind, text = type(error).__name__, str(error).strip().removesuffix(".")
    if text:
        return f"{kind}: {text[:_MAX_TEXT]}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{kind} in {Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else kind


def declaration_error(reason: str, *, code: str) -> AuthoringError:
    """The error for a declaration, with the author's line that makes it."""
    return authoring_error(reason, caller_place(), code=code)


def explained(build: Callable[P, R]) -> Callable[P, R]:
    """Make every failure of a ``build`` method an `AuthoringError` with a line of the author."""

    @functools.wraps(build)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        author: Any = args[0]
        place = caller_place() or place_of_function(author.function)
        try:
            return build(*args, **kwargs)
        except PygridError as error:
            if isinstance(error, AuthoringError) and "line" in error.fields:
                raise
            raise authoring_error(error.detail, place, code=error.code, **error.fields) from error
        except Exception as error:  # any fault of the author's code, torch or the exporter; it is chained as the cause
            reason = (
                f"the plan cannot be built: {described(error)}. Write this line with simpler operators; if torch "
                "runs it as it is, report this"
            )
            raise authoring_error(reason, place_of_error(error) or place, code=codes.PLAN_BUILD_FAILED) from error

    return wrapper


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


def without_gradient(
    forward: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor]
) -> tuple[str, SourceLocation | None]:
    """The operator whose gradient torch cannot compute, and the author's line that calls it; empty and None: unknown.

    Torch names both in a warning while it looks for anomalies.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly(check_nan=False), contextlib.suppress(RuntimeError):
            torch.autograd.grad(forward(), inputs, allow_unused=True)
    text = "".join(str(warning.message) for warning in seen)
    found = re.search(r"Error detected in (\w+?)Backward\d*\.", text)
    if found is None:
        return "", None
    frames = [(file, int(line)) for file, line in re.findall(r'File "(.+?)", line (\d+)', text[found.end() :])]
    beneath = [index for index, (file, _) in enumerate(frames) if file == _CALLER][-1:] or [-1]
    own = [SourceLocation(*frame) for frame in frames[beneath[0] + 1 :] if is_author_file(frame[0])]
    return found[1], own[-1] if own else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings and logs, of which the author has seen those about the code already."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        log.disabled = was_disabled


def authoring_error(reason: str, place: SourceLocation | None, *, code: str, **fields: Any) -> AuthoringError:
    """An error with the message ``line N: reason`` and the source line; ``file`` and ``line`` are its fields."""
    if place is None:
        return AuthoringError(reason, code=code, **fields)
    message = f"line {place.line}: {reason}\n    {place.source}\n    ({place.file}:{place.line})"
    return AuthoringError(message, code=code, file=place.file, line=place.line, source=place.source, **fields)
