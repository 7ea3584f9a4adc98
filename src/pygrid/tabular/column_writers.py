"""One column of a dataset in the making: values are checked against what was declared, and written as they will be
mapped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.core.column_times import DAY_US, write_time
from pygrid.core.datasets import MISSING_CODE, NULLABLE, TIMES, Column, bounds_of, stored_dtype
from pygrid.errors import InvalidDataset
from pygrid.plans.tokenizers import Tokenizer
from pygrid.tabular.typed_texts import FROM_TEXT, MISSING_WORDS, read_texts


@dataclass(frozen=True)
class Categorical:
    """Texts, each of them once, and which of them each record has."""

    texts: Sequence[str]
    """In the order in which they first occur; all of them do."""
    codes: npt.NDArray[Any]
    """`MISSING_CODE` where a record has none."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Categorical:
        """The texts of all records."""
        found: dict[str, int] = {}
        numbers = [found.setdefault(text, len(found)) for text in texts]
        return cls(list(found), np.array(numbers, np.int64))


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


_TOKENS_AT_ONCE = 1 << 22
MAX_EXACT = 2**53
"""float64 holds every whole number up to this one."""


class Codes(dict[str, int]):
    """Text -> code; a text that is new gets the next one, if it may.

    Args:
        fixed: the only texts, in the order of their codes; None: those of the data.
        missing: texts that stand for a missing value, unless they are among ``fixed``.
    """

    def __init__(
        self, column: str, max_count: int, max_chars: int, fixed: Iterable[str] | None, *, missing: Collection[str] = ()
    ) -> None:
        super().__init__({text: code for code, text in enumerate(fixed)} if fixed is not None else {})
        self._missing = missing
        self._column = column
        self._is_fixed = fixed is not None
        self._max_count = max_count
        self._max_chars = max_chars

    def __missing__(self, text: str) -> int:
        if text in self._missing:
            return MISSING_CODE
        if self._is_fixed:
            raise InvalidDataset(
                f"column {self._column!r} has {text[:50]!r}, which is not among its declared categories",
                code=codes.DATASET_OUT_OF_RANGE,
                column=self._column,
                value=text[:200],
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


@dataclass(frozen=True)
class SourceTraits:
    """What is known of the values of a column in the file."""

    kind: str
    """As `pygrid.tabular.table_writer.Field.kind`."""
    has_missing: bool | None = None
    """As declared; None: it is found from the values."""
    missing_words: Collection[str] = MISSING_WORDS
    """Texts that stand for a missing value."""
    tokenizer: Tokenizer | None = None
    """Makes the stored values of texts; None: they are stored as codes or numbers."""


class Target:
    """One column of the dataset that is being written.

    Args:
        subjects: counts the values, if this is the column of subjects.
    """

    def __init__(
        self,
        column: Column,
        sources: tuple[str, ...],
        file: ColumnFile,
        codes: Codes | None,
        traits: SourceTraits,
        subjects: Subjects | None = None,
    ) -> None:
        self.column = column
        self._kind, self._missing_words, self._tokenizer = traits.kind, traits.missing_words, traits.tokenizer
        self.sources = sources
        self.num_values = 0
        self.codes = codes
        self._file = file
        self._dtype = stored_dtype(column)
        self._low, self._high = bounds_of(column)
        self._declared_missing = traits.has_missing
        self._has_missing = bool(traits.has_missing)
        self.subjects = subjects

    def add(self, piece: Piece) -> int:
        """Append values; returns the number of bytes that they take."""
        if self._tokenizer is not None:
            return self._add_tokens(self._tokenizer, self._as_texts(piece))
        values = self.converted(piece)
        if self.subjects is not None:
            self.subjects.add(values)
        self.num_values += values.size
        if values.size:
            self._file.write(values)
        return values.nbytes

    def _add_tokens(self, tokenizer: Tokenizer, piece: Piece) -> int:
        """Append the tokens of texts, in parts, because they can take much more memory than the texts."""
        texts = piece if isinstance(piece, Categorical) else Categorical.of(piece)  # type: ignore[arg-type]
        words, length, num_bytes = [*texts.texts, ""], self.column.shape[0], 0
        at_once = max(1, _TOKENS_AT_ONCE // length)
        for begin in range(0, len(texts.codes), at_once):
            # The code -1 of a missing text is that of the last one.
            part = [words[code] for code in texts.codes[begin : begin + at_once]]
            values = tokenizer.encode(part, length)
            self.num_values += values.size
            self._file.write(values)
            num_bytes += values.nbytes
        return num_bytes

    def converted(self, piece: Piece) -> npt.NDArray[Any]:
        """The values as they are stored. Raises InvalidDataset: one cannot be stored."""
        if self._tokenizer is not None:
            return np.empty(0, self._dtype)  # each text has tokens
        if self.column.dtype in FROM_TEXT and self._kind not in TIMES:
            piece = self._as_texts(piece)
        values = self._coded(piece) if isinstance(piece, Categorical) else self._cast(self._as_time(piece))
        self._check_bounds(values)
        self._find_missing(values)
        return values

    def _as_texts(self, piece: Piece) -> Piece:
        """Whole numbers and truth values of the file as texts, for types that are read from texts."""
        if isinstance(piece, Categorical):
            return piece
        if not isinstance(piece, np.ndarray):
            return Categorical.of(piece)
        if self.column.dtype == "bool":
            return piece
        found, numbers = np.unique(piece, return_inverse=True)
        return Categorical([str(value).lower() for value in found.tolist()], numbers)

    def _coded(self, piece: Categorical) -> npt.NDArray[Any]:
        """The stored values of texts."""
        dtype = self.column.dtype
        if self.codes is None:
            numbers = np.append(read_texts(piece.texts, self.column, self._missing_words), np.nan)
        else:
            # At last, the value of a missing text: it has the code -1.
            found = [*map(self.codes.__getitem__, piece.texts)]
            if np.any(np.asarray(piece.codes) < 0):
                found.append(MISSING_CODE if dtype == "category" else self.codes[""])
            numbers = np.array(found, self._dtype)
        values: npt.NDArray[Any] = numbers[piece.codes] if len(piece.codes) else numbers[:0]
        if dtype == "bool" and np.isnan(values).any():
            raise InvalidDataset(
                f"column {self.column.name!r} is declared as bool and has missing values; declare it as category or "
                "float32, which have them",
                code=codes.DATASET_MISSING_VALUES,
                column=self.column.name,
            )
        return values.astype(self._dtype)

    def _as_time(self, piece: Piece) -> npt.NDArray[Any]:
        """Dates of the file as datetimes, and datetimes as dates, if they are declared so."""
        assert isinstance(piece, np.ndarray)
        if self._kind == "date" and self.column.dtype == "datetime":
            return piece * float(DAY_US)
        if self._kind == "datetime" and self.column.dtype == "date":
            days = np.floor(piece / DAY_US)
            odd = piece[(days * DAY_US != piece) & ~np.isnan(piece)]
            if odd.size:
                raise self._cannot_hold(write_time(float(odd.flat[0]), "datetime"))
            return days
        return piece

    def _cannot_hold(self, value: object) -> InvalidDataset:
        return InvalidDataset(
            f"column {self.column.name!r} has {value}, which {self.column.dtype} cannot hold",
            code=codes.DATASET_OUT_OF_RANGE,
            column=self.column.name,
            dtype=self.column.dtype,
            value=str(value),
        )

    def _check_rounded(self, piece: npt.NDArray[np.floating[Any]]) -> None:
        """Refuse a number of float64 that may stand for another whole number."""
        large = piece[(np.abs(piece) >= MAX_EXACT) & (np.abs(piece) < 2.0**63)]
        if large.size:
            raise InvalidDataset(
                f"column {self.column.name!r} has {large.flat[0]:.0f}, or a number that float64 rounds to it, among "
                "missing values or numbers with a point; declare the column as text",
                code=codes.DATASET_OUT_OF_RANGE,
                column=self.column.name,
                value=f"{large.flat[0]:.0f}",
            )

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
            if wanted.kind == "f" and given.kind == "f":
                is_same = np.isinf(cast) == np.isinf(piece)
            elif wanted.kind == "f":
                is_same = (wanted.itemsize < 8) | ((piece <= MAX_EXACT) & (piece >= -MAX_EXACT))
            elif given.kind == "f" and np.isnan(piece).any():
                raise InvalidDataset(
                    f"column {self.column.name!r} is declared as {self.column.dtype} and has missing values; declare "
                    "it as float64, or as text if its numbers are long",
                    code=codes.DATASET_MISSING_VALUES,
                    column=self.column.name,
                )
            else:
                is_same = cast.astype(given) == piece
                if given.kind == "f" and wanted.itemsize == 8:
                    self._check_rounded(piece)
                if given.kind in "iu" and wanted.kind in "iu":
                    is_same &= (cast < 0) == (piece < 0)
        if not np.all(is_same):
            first = np.asarray(piece).reshape(-1)[int(np.argmin(np.asarray(is_same).reshape(-1)))]
            raise self._cannot_hold(first)
        return cast

    def _check_bounds(self, values: npt.NDArray[Any]) -> None:
        if (self._low is None and self._high is None) or not values.size or self.codes is not None:
            return
        # NaN stands for a missing value, so it is within any bounds.
        smallest, largest = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        is_low = self._low is not None and smallest < self._low
        if is_low or (self._high is not None and largest > self._high):
            value = self._shown(smallest if is_low else largest)
            allowed = f"at least {self._shown(self._low)}" if is_low else f"at most {self._shown(self._high)}"
            raise InvalidDataset(
                f"column {self.column.name!r} has {value}; it is declared to be {allowed}",
                code=codes.DATASET_OUT_OF_RANGE,
                column=self.column.name,
                value=value,
            )

    def _shown(self, value: float | None) -> str:
        is_time = value is not None and self.column.dtype in TIMES
        return write_time(float(value), self.column.dtype) if is_time else str(value)  # type: ignore[arg-type]

    def _find_missing(self, values: npt.NDArray[Any]) -> None:
        if self._has_missing or self.column.dtype not in NULLABLE:
            return
        if not (np.any(values == MISSING_CODE) if self.codes is not None else np.isnan(values).any()):
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
        if column.dtype in NULLABLE:
            column = msgspec.structs.replace(column, has_missing=self._has_missing)
        return column, num_records

    def close(self) -> None:
        self._file.close()


def find_refused(target: Target, piece: Piece, max_count: int) -> list[tuple[int, InvalidDataset]]:
    """The first records of a piece that cannot be stored, and why."""
    found: list[tuple[int, InvalidDataset]] = []

    def search(begin: int, end: int) -> None:
        if len(found) >= max_count:
            return
        try:
            target.converted(_part(piece, begin, end))
        except InvalidDataset as error:
            if end - begin == 1:
                found.append((begin, error))
                return
            middle = (begin + end) // 2
            search(begin, middle)
            search(middle, end)

    search(0, len(piece.codes) if isinstance(piece, Categorical) else len(piece))
    return found


def _part(piece: Piece, begin: int, end: int) -> Piece:
    if not isinstance(piece, Categorical):
        return piece[begin:end]
    numbers = piece.codes[begin:end]
    used = np.unique(numbers[numbers >= 0])
    return Categorical(
        [piece.texts[number] for number in used], np.where(numbers < 0, -1, np.searchsorted(used, numbers))
    )
