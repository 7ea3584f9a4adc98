"""Columns of Arrow tables: what a type is stored as, and its values in that form.

    text                                          text
    dictionary of texts                           category
    true and false, whole numbers, floats         themselves; float64 where whole numbers or truth values are missing
    decimals                                      int64 without digits after the point (up to 18), else float64
    date                                          date
    timestamp, with a zone or without             datetime, in UTC
    lists of one length, tensors of fixed shape   an array for each record
    null                                          float64, all missing

A value is stored exactly, or as the nearest float of a decimal with at most 15 digits, or it is refused.
"""

from __future__ import annotations

import decimal
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pygrid import codes
from pygrid.core.datasets import CODED
from pygrid.errors import InvalidDataset
from pygrid.tabular.column_writers import MAX_EXACT, Categorical, Piece
from pygrid.tabular.times import microseconds
from pygrid.tabular.typed_texts import FROM_TEXT

_MAX_DIGITS = 15
"""A decimal of at most this many digits is the nearest one to its float64."""


class NeedsFloats(Exception):
    """A column of whole numbers or truth values has missing ones, so it becomes float64."""


class ArrowColumn:
    """A column of a table, and how its values are stored.

    Args:
        declared: the dtype that the owner declared for it.
        first: some records, which show the length of lists; None: there is no record.
    Raises:
        InvalidDataset: ``dataset_dtype``: the type is not stored.
    """

    def __init__(self, field: Any, declared: str | None, first: Any) -> None:
        self.name = field.name
        self._type = field.type
        self._declared = declared
        self._check_extension((field.metadata or {}).get(b"ARROW:extension:name", b"").decode())
        self._lengths: list[int] = []
        """Length of the lists at each level of nesting."""
        shape: list[int] = []
        kind = self._type
        if first is not None:
            first.validate(full=True)
        while (sizes := self._sizes(kind, first)) is not None:
            self._lengths.append(math.prod(sizes))
            shape += sizes
            first, kind = None if first is None else _flatten(first), kind.value_type
        if pa.types.is_dictionary(kind) and not _is_text(kind.value_type):
            kind = kind.value_type
        self._kind = kind
        self.shape = tuple(shape)
        self.kind = self._stored_as(kind)

    def _check_extension(self, name: str) -> None:
        """Refuse types that another library defined, whose numbers mean something that a Domain does not know."""
        if isinstance(self._type, pa.BaseExtensionType):
            name = self._type.extension_name
        storage = self._type.storage_type if isinstance(self._type, pa.BaseExtensionType) else self._type
        if name and name != "arrow.fixed_shape_tensor" and not _is_text(storage):
            raise self._refused(
                f"holds values of the type {name!r}, which is not stored: convert it to numbers, texts or dates",
                dtype=name,
            )

    def _sizes(self, kind: Any, first: Any) -> list[int] | None:
        """The shape of the records of a list, by its type or its first records; None for another type."""
        if isinstance(kind, pa.FixedShapeTensorType):
            if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
                raise self._refused("has its axes permuted; write it with the axes in order")
            return list(kind.shape)
        if pa.types.is_fixed_size_list(kind):
            return [kind.list_size]
        if not _is_list(kind):
            return None
        there = [] if first is None else first.drop_null()
        return [len(there[0]) if len(there) else 0]

    def _stored_as(self, kind: Any) -> str:
        if _is_text(kind):
            return "text"
        if pa.types.is_dictionary(kind):
            return "category"
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return str(np.dtype(kind.to_pandas_dtype()).name)
        if pa.types.is_decimal(kind):
            return "int64" if kind.scale == 0 and kind.precision <= 18 else "float64"
        if pa.types.is_date(kind):
            return "date"
        if pa.types.is_timestamp(kind):
            return "datetime"
        if pa.types.is_null(kind):
            return "float64"
        raise self._refused(
            f"holds {kind}, which is not stored: use numbers, true and false, texts, categories, dates, timestamps, or "
            "lists of them of one length",
            dtype=str(kind),
        )

    @property
    def _is_whole(self) -> bool:
        return self.kind not in CODED and np.dtype(_NUMPY.get(self.kind, self.kind)).kind in "iub"

    def widen(self) -> None:
        """Store whole numbers and truth values as float64, where NaN is a missing one."""
        self.kind = "float64"

    def needs_floats(self, array: Any) -> bool:
        """Whether values are missing among whole numbers or truth values whose type the file decides."""
        if not self._is_whole or self._declared is not None:
            return False
        array.validate(full=True)
        for _ in self._lengths:
            array = _flatten(array)
        return bool(array.null_count)

    def piece(self, array: Any) -> Piece:
        """The values of some records.

        Raises:
            NeedsFloats: see `widen`. InvalidDataset: a value cannot be stored; lists differ in length.
        """
        array.validate(full=True)
        array = self._elements(array)
        if self.kind in CODED:
            return self._categorical(array)
        if self._is_whole and self._declared in FROM_TEXT and not self.shape and self._declared != "bool":
            return self._categorical(self._numbers(array).cast(pa.string()))
        values = self._values(array)
        return values.reshape(-1, *self.shape)

    def _elements(self, array: Any) -> Any:
        """The values of all records in one dimension, after a check of the lengths of lists."""
        for size in self._lengths:
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            if array.null_count:
                raise InvalidDataset(
                    f"column {self.name!r} has a record without a list; fill it in, or leave the record out",
                    code=codes.DATASET_MISSING_VALUES,
                    column=self.name,
                )
            if _is_list(array.type):
                lengths = pc.unique(pc.list_value_length(array)).to_pylist()
                if odd := [length for length in lengths if length != size]:
                    raise self._refused(
                        f"has lists of length {size} and {odd[0]}; lists of one length (FixedSizeList) are stored as "
                        "an array for each record: pad them, or leave the column out (skip)"
                    )
            array = _flatten(array)
        return array

    def _categorical(self, array: Any) -> Categorical:
        if pa.types.is_dictionary(array.type):
            # Encoded again: a dictionary can have texts that no record has.
            texts = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.large_string()))
            array = texts.dictionary_decode()
        array = array.cast(pa.large_string())
        if (self._declared or self.kind) == "text":
            array = array.fill_null("")
        coded = array.dictionary_encode()
        return Categorical(coded.dictionary.to_pylist(), coded.indices.fill_null(-1).to_numpy(zero_copy_only=False))

    def _values(self, array: Any) -> npt.NDArray[Any]:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if self.kind == "date":
            days = array.cast(pa.date32()).cast(pa.int32())
            return np.asarray(days.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        if self.kind == "datetime":
            return self._microseconds(array)
        if pa.types.is_decimal(self._kind) and self.kind == "float64":
            return self._decimals(array)
        if pa.types.is_null(array.type):
            return np.full(len(array), np.nan)
        array = self._numbers(array)
        if not array.null_count or pa.types.is_floating(array.type):
            if self.kind == "float64" and not pa.types.is_floating(array.type):
                return self._floats(array)
            values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
            return values
        if self._declared is None and self.kind != "float64":
            raise NeedsFloats
        if self._declared not in (None, "float32", "float64"):
            raise InvalidDataset(
                f"column {self.name!r} is declared as {self._declared} and has missing values; fill them in, or "
                "declare it as float64 or category, which have them",
                code=codes.DATASET_MISSING_VALUES,
                column=self.name,
            )
        return self._floats(array)

    def _numbers(self, array: Any) -> Any:
        """Decimals without digits after the point as whole numbers."""
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array.cast(pa.int64()) if pa.types.is_decimal(array.type) and self._is_whole else array

    def _floats(self, array: Any) -> npt.NDArray[np.float64]:
        """Whole numbers or truth values as float64, exactly; NaN for a missing one."""
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.uint8())
        there = array.is_valid().to_numpy(zero_copy_only=False)
        whole = array.fill_null(0).to_numpy(zero_copy_only=False)
        if array.type.bit_width == 64 and len(long := np.flatnonzero((whole > MAX_EXACT) | (whole < -MAX_EXACT))):
            raise InvalidDataset(
                f"column {self.name!r} has {whole[long[0]]}, which float64 cannot hold exactly, and whole numbers with "
                "missing ones are stored as float64; declare the column as text or category",
                code=codes.DATASET_OUT_OF_RANGE,
                column=self.name,
                dtype="float64",
                value=str(whole[long[0]]),
            )
        return np.where(there, whole.astype(np.float64), np.nan)

    def _microseconds(self, array: Any) -> npt.NDArray[np.float64]:
        there = array.is_valid().to_numpy(zero_copy_only=False)
        ticks = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return np.where(there, microseconds(ticks, self._kind.unit, self.name), np.nan)

    def _decimals(self, array: Any) -> npt.NDArray[np.float64]:
        values = np.full(len(array), np.nan)
        check = self._kind.precision > _MAX_DIGITS
        for place, value in enumerate(array.to_pylist()):
            if value is None:
                continue
            values[place] = number = float(value)
            if check and decimal.Decimal(repr(number)) != value:
                raise InvalidDataset(
                    f"column {self.name!r} has {value}, which has more digits than float64 holds; round it, or write "
                    "it as a text",
                    code=codes.DATASET_OUT_OF_RANGE,
                    column=self.name,
                    value=str(value),
                )
        return values

    def _refused(self, why: str, **fields: Any) -> InvalidDataset:
        return InvalidDataset(f"column {self.name!r} {why}", code=codes.DATASET_DTYPE, column=self.name, **fields)


_NUMPY = {"date": "float64", "datetime": "float64"}


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _flatten(array: Any) -> Any:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.flatten()
