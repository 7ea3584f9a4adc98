"""Prepared columns as short texts, the same in Python and on the command line.

    prepare={"age_std": "age,fill=40,clip=0..120,standardize", "sex_hot": "sex,one_hot"}
    --prepare age_std:age,fill=40,clip=0..120,standardize --prepare sex_hot:sex,one_hot

A text is ``SOURCE,STEP[=VALUE][,STEP[=VALUE] ...]``; ``\\,`` is a comma within a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.preparations import (
    BucketizeStep,
    ClipStep,
    FillStep,
    OneHotStep,
    Preparation,
    PreparedFrom,
    StandardizeStep,
    Step,
)

STEPS = {
    "fill": "fill=VALUE",
    "clip": "clip=LOW..HIGH",
    "standardize": "standardize, or standardize=LOW..HIGH",
    "bucketize": "bucketize=EDGE|EDGE",
    "one_hot": "one_hot",
}
"""How each step is written."""
_OTHER_NAMES = {"standardise": "standardize", "bucketise": "bucketize", "onehot": "one_hot", "one-hot": "one_hot"}


def read_preparation(name: str, text: str) -> Preparation:
    """The prepared column that a text describes.

    Raises:
        InvalidInput: ``invalid_preparation``: names the part that is not valid, and what is.
    """
    source, *parts = (part.replace("\0", ",") for part in text.replace("\\,", "\0").split(","))
    if not source or not parts:
        raise _invalid(name, f"{text!r} is not valid; write SOURCE,STEP with one or more steps: {', '.join(STEPS)}")
    return Preparation(source=source, steps=tuple(_step(name, part) for part in parts), name=name)


def _step(name: str, part: str) -> Step:
    word, has_value, value = part.partition("=")
    word = _OTHER_NAMES.get(word, word)
    if word not in STEPS:
        near = difflib.get_close_matches(word, STEPS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise _invalid(name, f"{part!r} is not a step{hint}; use {', '.join(STEPS)}")
    if (has_value and word == "one_hot") or (not value and (has_value or word not in ("standardize", "one_hot"))):
        raise _invalid(name, f"{part!r} is not valid; write {STEPS[word]}")
    if word == "fill":
        return FillStep(value=value)
    if word == "bucketize":
        return BucketizeStep(edges=tuple(_bound(edge) for edge in value.split("|")))
    if word == "one_hot":
        return OneHotStep()
    if not has_value:
        return StandardizeStep()
    low, is_range, high = value.partition("..")
    if not is_range:
        raise _invalid(name, f"{part!r} is not valid; write {STEPS[word]}")
    if word == "clip":
        return ClipStep(low=_bound(low) if low else None, high=_bound(high) if high else None)
    try:
        return StandardizeStep(low=float(low), high=float(high))
    except ValueError:
        raise _invalid(name, f"{part!r} is not valid; LOW and HIGH are numbers") from None


def write_preparation(prepared: PreparedFrom) -> str:
    """The text that `read_preparation` reads."""
    parts = [prepared.source]
    for step in prepared.steps:
        match step:
            case FillStep():
                parts.append(f"fill={_text(step.value)}")
            case ClipStep():
                parts.append(f"clip={_text(step.low)}..{_text(step.high)}")
            case StandardizeStep() if step == StandardizeStep():
                parts.append("standardize")
            case StandardizeStep():
                parts.append(f"standardize={_text(step.low)}..{_text(step.high)}")
            case BucketizeStep():
                parts.append("bucketize=" + "|".join(map(_text, step.edges)))
            case OneHotStep():
                parts.append("one_hot")
    return ",".join(part.replace(",", "\\,") for part in parts)


def preparations_of(given: Any) -> list[Any]:
    """Preparations from a mapping of names to texts or fields, as the SDK takes them; a list as it is."""
    if not isinstance(given, Mapping):
        return list(given)
    return [
        read_preparation(name, said) if isinstance(said, str) else {"name": name, **said}
        for name, said in given.items()
    ]


def _bound(text: str) -> float | str:
    """A number, or the text itself."""
    try:
        return float(text)
    except ValueError:
        return text


def _text(bound: float | str | None) -> str:
    if bound is None:
        return ""
    return bound if isinstance(bound, str) else repr(bound).removesuffix(".0")


def _invalid(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"prepared column {name!r}: {why}", code=codes.INVALID_PREPARATION, column=name)
