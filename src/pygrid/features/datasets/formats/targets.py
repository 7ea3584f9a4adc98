"""One column of a dataset in the making: values are checked against what was declared, and written as they will be mapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid.core.datasets import Column, bounds_of
from pygrid.errors import InvalidDataset
from pygrid.storage.columns import ColumnWriter, stored_dtype


@dataclass(frozen=True)
class Coded:
    """Texts, each of them once, and which of them each record has."""

    texts: Sequence[str]
    """In the order in which they first occur; all of them do."""
    codes: npt.NDArray[Any]


Piece = npt.NDArray[Any] | Sequence[str] | Coded
"""Records of one column: an array ``[n, *shape]`` (or its values in one dimension), or texts."""


class Codes(dict[str, int]):
    """Text -> code; a text that is new gets the next one, if it may."""

    def __init__(self, column: str, max_count: int, max_chars: int, fixed: Iterable[str] | None) -> None:
        super().__init__({text: code for code, text in enumerate(fixed)} if fixed is not None else {})
        self._column = column
        self._is_fixed = fixed is not None
        self._max_count = max_count
        self._max_chars = max_chars

    def __missing__(self, text: str) -> int:
        if self._is_fixed:
            raise InvalidDataset(
                f"column {self._column!r} has {text[:50]!r}, which is not among its declared categories",
                code="dataset_out_of_range",
                column=self._column,
            )
        if len(text) > self._max_chars:
            raise InvalidDataset(
                f"column {self._column!r} has a text of {len(text):,} characters; at most {self._max_chars:,} are taken",
                code="dataset_text_too_long",
                column=self._column,
            )
        if len(self) >= self._max_count:
            raise InvalidDataset(
                f"column {self._column!r} has more than {self._max_count:,} different texts; leave it out (skip) or group its "
                "values: a text column is for categories",
                code="dataset_too_many_categories",
                column=self._column,
            )
        code = self[text] = len(self)
        return code


class Target:
    """One column of the dataset in the making."""

    def __init__(self, column: Column, sources: tuple[str, ...], file: ColumnWriter, codes: Codes | None) -> None:
        self.column = column
        self.sources = sources
        self.num_values = 0
        self.codes = codes
        self._file = file
        self._dtype = stored_dtype(column)
        self._low, self._high = bounds_of(column)

    def add(self, piece: Piece) -> int:
        """Append values; gives how many bytes they take."""
        values: npt.NDArray[Any]
        if isinstance(piece, Coded):
            assert self.codes is not None
            codes = np.fromiter(map(self.codes.__getitem__, piece.texts), self._dtype, len(piece.texts))
            values = codes[piece.codes]
        elif self.codes is not None:
            values = np.fromiter(map(self.codes.__getitem__, piece), self._dtype, len(piece))
        else:
            assert isinstance(piece, np.ndarray)
            values = self._cast(piece)
            self._check_bounds(values)
        self.num_values += values.size
        if values.size:
            self._file.write(values)
        return values.nbytes

    def _cast(self, piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values in the stored dtype, if none of them changes its meaning (rounding to float32 does not)."""
        given, wanted = piece.dtype, self._dtype
        if given.kind == wanted.kind and given.itemsize <= wanted.itemsize:
            return piece.astype(wanted, copy=False)
        with np.errstate(all="ignore"):
            cast = piece.astype(wanted)
            if wanted.kind == "f":
                is_same = np.isinf(cast) == np.isinf(piece) if given.kind == "f" else np.isfinite(cast)
            else:
                is_same = cast.astype(given) == piece
                if given.kind in "iu" and wanted.kind in "iu":
                    is_same &= (cast < 0) == (piece < 0)
        if not np.all(is_same):
            first = np.asarray(piece).reshape(-1)[int(np.argmin(np.asarray(is_same).reshape(-1)))]
            raise InvalidDataset(
                f"column {self.column.name!r} has {first}, which {wanted.name} cannot hold",
                code="dataset_out_of_range",
                column=self.column.name,
                dtype=self.column.dtype,
            )
        return cast

    def _check_bounds(self, values: npt.NDArray[Any]) -> None:
        if (self._low is None and self._high is None) or not values.size:
            return
        # A NaN is no value, so it is within any bounds.
        smallest, largest = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        is_low = self._low is not None and smallest < self._low
        if is_low or (self._high is not None and largest > self._high):
            raise InvalidDataset(
                f"column {self.column.name!r} has {smallest if is_low else largest}; it was declared to lie from "
                f"{self._low} to {self._high}",
                code="dataset_out_of_range",
                column=self.column.name,
            )

    def finish(self, *, keep_categories: bool) -> tuple[Column, int]:
        """The column as it is described, and how many records it has."""
        self._file.close()
        num_records, rest = divmod(self.num_values, self.column.num_values)
        if rest:
            raise InvalidDataset(f"column {self.column.name!r} ends within a record", code="dataset_ragged")
        column = self.column
        if self.codes is not None and keep_categories:
            column = msgspec.structs.replace(column, categories=tuple(self.codes), num_categories=len(self.codes))
        return column, num_records

    def close(self) -> None:
        self._file.close()
