"""One column of a dataset in the making: values are checked against what was declared, and written as they will be
mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.core.datasets import Column, bounds_of, stored_dtype
from pygrid.errors import InvalidDataset


@dataclass(frozen=True)
class Categorical:
    """Texts, each of them once, and which of them each record has."""

    texts: Sequence[str]
    """In the order in which they first occur; all of them do."""
    codes: npt.NDArray[Any]


Piece = npt.NDArray[Any] | Sequence[str] | Categorical
"""Records of one column: an array ``[n, *shape]`` (or its values in one dimension), or texts."""


class ColumnFile(Protocol):
    """Where the values of one column are stored."""

    def write(self, values: npt.NDArray[Any]) -> None:
        """Append values as they are in memory."""
        ...

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        ...


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
                code=codes.DATASET_OUT_OF_RANGE,
                column=self._column,
            )
        if len(text) > self._max_chars:
            raise InvalidDataset(
                f"column {self._column!r} has a text of {len(text):,} characters; at most {self._max_chars:,} are "
                "allowed",
                code=codes.DATASET_TEXT_TOO_LONG,
                column=self._column,
            )
        if len(self) >= self._max_count:
            raise InvalidDataset(
                f"column {self._column!r} has more than {self._max_count:,} different texts; leave it out (skip) or "
                "group its values: a text column is for categories",
                code=codes.DATASET_TOO_MANY_CATEGORIES,
                column=self._column,
            )
        code = self[text] = len(self)
        return code


class Subjects:
    """Counts the different values of a subject column, as stored. Takes at most 40 bytes for each."""

    def __init__(self, column: str, max_count: int) -> None:
        self._column, self._max_count = column, max_count
        self._known = np.empty(0, np.int64)
        self._new: list[npt.NDArray[np.int64]] = []
        self._num_new = 0

    def add(self, numbers: npt.NDArray[Any]) -> None:
        """Note numbers. Raises InvalidDataset: ``dataset_too_many_subjects``."""
        found = np.unique(numbers).astype(np.int64)
        if len(self._known):
            places = np.minimum(np.searchsorted(self._known, found), len(self._known) - 1)
            found = found[self._known[places] != found]
        self._new.append(found)
        self._num_new += len(found)
        if self._num_new > max(1 << 16, len(self._known)):
            self.count()

    def count(self) -> int:
        """Number of different values so far. Raises as `add`."""
        self._known = np.unique(np.concatenate([self._known, *self._new]))
        self._new, self._num_new = [], 0
        if len(self._known) > self._max_count:
            raise InvalidDataset(
                f"column {self._column!r} has more than {self._max_count:,} different subjects",
                code=codes.DATASET_TOO_MANY_SUBJECTS,
                column=self._column,
            )
        return len(self._known)


class Target:
    """One column of the dataset that is being written.

    Args:
        has_missing: as declared; None: it is found from the values.
        subjects: counts the values, if this is the column of subjects.
    """

    def __init__(
        self,
        column: Column,
        sources: tuple[str, ...],
        file: ColumnFile,
        codes: Codes | None,
        *,
        has_missing: bool | None = None,
        subjects: Subjects | None = None,
    ) -> None:
        self.column = column
        self.sources = sources
        self.num_values = 0
        self.codes = codes
        self._file = file
        self._dtype = stored_dtype(column)
        self._low, self._high = bounds_of(column)
        self._declared_missing = has_missing
        self._has_missing = bool(has_missing)
        self.subjects = subjects

    def add(self, piece: Piece) -> int:
        """Append values; returns the number of bytes that they take."""
        values: npt.NDArray[Any]
        if isinstance(piece, Categorical):
            assert self.codes is not None
            codes = np.fromiter(map(self.codes.__getitem__, piece.texts), self._dtype, len(piece.texts))
            values = codes[piece.codes]
        elif self.codes is not None:
            values = np.fromiter(map(self.codes.__getitem__, piece), self._dtype, len(piece))
        else:
            assert isinstance(piece, np.ndarray)
            values = self._cast(piece)
            self._check_bounds(values)
            self._find_missing(values)
        if self.subjects is not None:
            self.subjects.add(values)
        self.num_values += values.size
        if values.size:
            self._file.write(values)
        return values.nbytes

    def _cast(self, piece: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values in the stored dtype, if none of them changes its meaning (rounding to float32 does not)."""
        given, wanted = piece.dtype, self._dtype
        if given.kind == wanted.kind and given.itemsize <= wanted.itemsize:
            return piece.astype(wanted, copy=False)
        if given.kind in "iu" and wanted.kind in "iu" and piece.size:
            bounds = np.iinfo(wanted)
            if bounds.min <= int(piece.min()) and int(piece.max()) <= bounds.max:
                return piece.astype(wanted)
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
                code=codes.DATASET_OUT_OF_RANGE,
                column=self.column.name,
                dtype=self.column.dtype,
            )
        return cast

    def _check_bounds(self, values: npt.NDArray[Any]) -> None:
        if (self._low is None and self._high is None) or not values.size:
            return
        # NaN stands for a missing value, so it is within any bounds.
        smallest, largest = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        is_low = self._low is not None and smallest < self._low
        if is_low or (self._high is not None and largest > self._high):
            raise InvalidDataset(
                f"column {self.column.name!r} has {smallest if is_low else largest}; it is declared to be from "
                f"{self._low} to {self._high}",
                code=codes.DATASET_OUT_OF_RANGE,
                column=self.column.name,
            )

    def _find_missing(self, values: npt.NDArray[Any]) -> None:
        if values.dtype.kind != "f" or self._has_missing or not np.isnan(values).any():
            return
        if self._declared_missing is False:
            raise InvalidDataset(
                f"column {self.column.name!r} has missing values, but it is declared without them (has_missing)",
                code=codes.DATASET_MISSING_VALUES,
                column=self.column.name,
            )
        self._has_missing = True

    def finish(self, *, keep_categories: bool) -> tuple[Column, int]:
        """The description of the column, and its number of records."""
        self._file.close()
        num_records, rest = divmod(self.num_values, self.column.num_values)
        if rest:
            raise InvalidDataset(f"column {self.column.name!r} ends within a record", code=codes.DATASET_RAGGED)
        column = self.column
        if self.codes is not None and keep_categories:
            column = msgspec.structs.replace(column, categories=tuple(self.codes), num_categories=len(self.codes))
        if self._dtype.kind == "f":
            column = msgspec.structs.replace(column, has_missing=self._has_missing)
        return column, num_records

    def close(self) -> None:
        self._file.close()
