"""Declarations of columns as short texts, the same in Python and on the command line.

    columns={"age": "float32,min=0,max=120", "sex": "category,categories=f|m", "label": "label 0..9"}
    --column age:float32,min=0,max=120 --column sex:category,categories=f|m --column "label:label 0..9"

A text is ``TYPE[,key=value ...]``; TYPE can be empty, and ``\\,`` is a comma within a value. In place of a type, a
meaning that pygrid checks can stand: ``image 1x28x28`` or ``label 0..9``.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.datasets import Dtype

KEYS = ("unit", "meaning", "description", "min", "max", "categories", "source", "has_missing", "format", "tokens")
_TYPES: tuple[str, ...] = get_args(Dtype)
_OTHER_NAMES = {
    "float": "float64",
    "double": "float64",
    "number": "float64",
    "int": "int64",
    "integer": "int64",
    "boolean": "bool",
    "str": "text",
    "string": "text",
    "categorical": "category",
    "timestamp": "datetime",
}
_MEANING = re.compile(r"(image|label) -?\d")


def read_column(name: str, text: str) -> dict[str, Any]:
    """The fields of `ColumnDeclaration` of a column from the text after its name.

    Raises:
        InvalidInput: ``invalid_dataset_config``: names the part that is not valid, and what is.
    """
    first, *parts = (part.replace("\0", ",") for part in text.replace("\\,", "\0").split(","))
    declared: dict[str, Any] = {"name": name}
    if _MEANING.match(first):
        declared["meaning"] = first
    elif first in _TYPES:
        declared["dtype"] = first
    elif first:
        raise _invalid(name, f"{first!r} is not a type{_hint(first)}; use {', '.join(_TYPES)}, or meaning={first}")
    for part in parts:
        key, is_pair, value = part.partition("=")
        if not is_pair or key not in KEYS:
            raise _invalid(name, f"{part!r} is not valid; use {', '.join(f'{key}=' for key in KEYS)}")
        declared[key] = _value(name, key, value)
    return declared


def _value(name: str, key: str, value: str) -> Any:
    if key in ("categories", "source"):
        return value.split("|")
    if key == "tokens":
        tokenizer, _, length = value.rpartition(":")
        if not tokenizer or not length.isdecimal():
            raise _invalid(name, f"tokens is {value!r}; write bytes:LENGTH, or FILE:LENGTH for a vocabulary")
        return {"length": int(length)} | ({} if tokenizer == "bytes" else {"words": tokenizer})
    if key == "has_missing":
        if value not in ("yes", "no"):
            raise _invalid(name, f"has_missing is {value!r}; write yes or no")
        return value == "yes"
    if key in ("min", "max"):
        try:
            return float(value)
        except ValueError:
            if not re.match(r"\d{4}-", value):
                raise _invalid(name, f"{value!r} is not a number, or a date such as 2020-12-31") from None
    return value


def _hint(word: str) -> str:
    near = _OTHER_NAMES.get(word.lower()) or next(iter(difflib.get_close_matches(word.lower(), _TYPES, 1)), None)
    return f" (did you mean {near}?)" if near else ""


def _invalid(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"column {name!r}: {why}", code=codes.INVALID_DATASET_CONFIG, column=name)
