"""The rules of columns: names, declarations, bounds and meanings."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrid import codes
from pygrid.core.column_times import check_time_format, read_time
from pygrid.errors import InvalidConfig
from pygrid.messages.datasets import (
    CODED,
    NULLABLE,
    STORED_DTYPES,
    TIMES,
    Bound,
    Column,
    ColumnDeclaration,
    Dtype,
    Schema,
    TextTokens,
)
from pygrid.plans.tokenizers import BYTES, MAX_LENGTH, Tokenizer

MAX_NAME = 100
MAX_DESCRIPTION = 20_000
MAX_SHORT_TEXT = 200
MAX_DECLARED_CATEGORIES = 10_000
_RESERVED_NAMES = frozenset({"__metadata__"})


def check_column_name(name: str) -> str:
    """Check the name of a column in a file or a declaration. It is a label, never a path.

    Raises:
        InvalidConfig: empty, too long, not printable, or reserved by the file formats.
    """
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip() or name in _RESERVED_NAMES:
        raise InvalidConfig(
            f"{name[:MAX_NAME]!r} cannot be the name of a column: use 1 to {MAX_NAME} printable characters, without "
            "spaces at either end",
            code=codes.INVALID_COLUMN_NAME,
            column=name[:MAX_NAME],
        )
    return name


def check_declaration(column: ColumnDeclaration) -> None:
    """Raises InvalidConfig: ``invalid_dataset_config``, ``invalid_column_name``: names the column and the fault."""
    check_column_name(column.name)
    where = f"columns: {column.name!r}"
    for field in ("unit", "meaning", "description"):
        if len(getattr(column, field)) > (MAX_DESCRIPTION if field == "description" else MAX_SHORT_TEXT):
            raise invalid_description(f"{where}.{field}", getattr(column, field), "it is too long")
    low, high = (_check_bound(where, column, bound) for bound in (column.min, column.max))
    if low is not None and high is not None and low > high:
        raise invalid_description(f"{where}: min", column.min, f"it must not be above max, {column.max}")
    if column.categories is not None:
        if column.dtype is not None and column.dtype not in CODED:
            raise invalid_description(
                f"{where}: categories",
                column.dtype,
                "only a category column has them; leave dtype out, or use category",
            )
        if not 0 < len(column.categories) <= MAX_DECLARED_CATEGORIES or len(set(column.categories)) != len(
            column.categories
        ):
            raise invalid_description(
                f"{where}: categories", f"{len(column.categories)} texts", "name each of 1 to 10,000 once"
            )
    if (column.categories is not None or column.dtype in CODED) and (low is not None or high is not None):
        raise invalid_description(f"{where}: min and max", column.dtype, "texts and categories have none")
    if column.has_missing is not None and column.dtype is not None and column.dtype not in NULLABLE:
        raise invalid_description(
            f"{where}: has_missing",
            column.dtype,
            f"only columns of {', '.join(sorted(NULLABLE))} have missing values; leave it out",
        )
    if column.tokens is not None:
        _check_tokens(where, column, column.tokens)
    if column.format:
        try:
            check_time_format(column.format, column.dtype)
        except ValueError as error:
            raise invalid_description(f"{where}: format", column.format, str(error)) from error
    understand(column.meaning)


def _check_tokens(where: str, column: ColumnDeclaration, tokens: TextTokens) -> None:
    if column.dtype not in (None, "text") or column.categories is not None or column.source:
        raise invalid_description(
            f"{where}: tokens", column.dtype, "only a column of texts has tokens, without categories"
        )
    if column.min is not None or column.max is not None or column.has_missing is not None or column.format:
        raise invalid_description(
            f"{where}: tokens", tokens.length, "leave out min, max, has_missing and format for tokens"
        )
    if not 1 <= tokens.length <= MAX_LENGTH:
        raise invalid_description(f"{where}: tokens", tokens.length, f"use 1 to {MAX_LENGTH:,} tokens for each text")
    if tokens.words == ():
        raise invalid_description(
            f"{where}: tokens", "words", "the vocabulary is not stored; declare the column again with its file"
        )
    try:
        Tokenizer(tokens.words)
    except ValueError as error:
        raise invalid_description(f"{where}: tokens", "words", str(error)) from error


def _check_bound(where: str, column: ColumnDeclaration, bound: Bound | None) -> float | None:
    """A bound as a number. That of a column whose dtype the file decides is read as a datetime."""
    try:
        number = bound_number(bound, column.dtype if column.dtype is not None else "datetime")
    except ValueError as error:
        raise invalid_description(
            f"{where}: min and max", bound, f"use numbers, or dates such as 2020-12-31 ({error})"
        ) from error
    if isinstance(bound, str) and column.dtype is not None and column.dtype not in TIMES:
        raise invalid_description(f"{where}: min and max", bound, f"a column of {column.dtype} has numbers as bounds")
    if number is not None and not math.isfinite(number):
        raise invalid_description(f"{where}: min and max", bound, "use finite numbers")
    return number


def bound_number(bound: Bound | None, dtype: Dtype) -> float | None:
    """A declared bound as a stored value. Raises ValueError: a text that is not a date of this dtype."""
    return read_time(bound, dtype) if isinstance(bound, str) else bound


@dataclass(frozen=True)
class Understood:
    """The parts of a meaning that pygrid can check. None: the meaning has no such part."""

    shape: tuple[int, ...] | None = None
    bounds: tuple[int, int] | None = None


_IMAGE = re.compile(r"image (\d{1,6}(?:x\d{1,6}){1,3})")
_LABEL = re.compile(r"label (-?\d{1,15})\.\.(-?\d{1,15})(?: or (-?\d{1,15}))?")


def understand(meaning: str) -> Understood:
    """Parse a meaning: ``image 1x28x28`` sets the shape, ``label 0..9`` the bounds. Other meanings are for people.

    ``label 0..3 or 255`` names a value for what has no label; the bounds include it.

    Raises:
        InvalidConfig: the meaning begins like one of the two forms but is malformed.
    """
    if match := _IMAGE.fullmatch(meaning):
        shape = tuple(int(part) for part in match[1].split("x"))
        if 0 not in shape:
            return Understood(shape=shape)
    elif match := _LABEL.fullmatch(meaning):
        low, high = int(match[1]), int(match[2])
        other = low if match[3] is None else int(match[3])
        if low <= high:
            return Understood(bounds=(min(low, other), max(high, other)))
    elif not re.match(r"(image|label) -?\d", meaning):
        return Understood()
    raise invalid_description("meaning", meaning, "write an image like 'image 1x28x28' and labels like 'label 0..9'")


def bounds_of(column: Column) -> tuple[float | None, float | None]:
    """The declared bounds of the values: ``min`` and ``max``, or those of a label."""
    label = understand(column.meaning).bounds
    low = column.min if column.min is not None or label is None else float(label[0])
    high = column.max if column.max is not None or label is None else float(label[1])
    return low, high


def stored_dtype(column: Column) -> np.dtype[Any]:
    """The numpy dtype of the values in the file of the column."""
    return np.dtype(STORED_DTYPES[column.dtype])


def declarations_of(schema: Schema) -> tuple[ColumnDeclaration, ...]:
    """Declarations for a table like this one: its next version, or an uploaded mock dataset."""
    return tuple(
        ColumnDeclaration(
            column.name,
            column.dtype,
            column.unit,
            column.meaning,
            column.description,
            column.min,
            column.max,
            column.categories if column.declared else None,
            has_missing=True if column.has_missing else None,
            format=column.format,
        )
        if not column.tokenizer
        else ColumnDeclaration(
            column.name,
            unit=column.unit,
            meaning=column.meaning,
            description=column.description,
            tokens=TextTokens(column.shape[0], None if column.tokenizer == BYTES else ()),
        )
        for column in schema.columns
        if column.prepared is None
    )


def invalid_description(field: str, value: object, wanted: str) -> InvalidConfig:
    """The refusal of a field of a dataset's description."""
    shown = str(value)[:100]
    return InvalidConfig(f"{field} is {shown!r}: {wanted}", code=codes.INVALID_DATASET_CONFIG, field=field, value=shown)
