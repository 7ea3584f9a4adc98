"""Preview of the result of a job, for the person who decides on its release and for its requester."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pygrid.errors import InvalidTensors
from pygrid.messages.jobs import JobKind
from pygrid.tensors import decode

MAX_BYTES = 64 * 1024**2
"""Largest result that is read as a whole."""
MAX_ARRAYS = 200
MAX_ROWS = 20


@dataclass(frozen=True, slots=True)
class ArrayPreview:
    name: str
    dtype: str
    shape: tuple[int, ...]
    norm: float | None
    """Euclidean norm of its finite values; None for other types than numbers."""


@dataclass(frozen=True, slots=True)
class ResultPreview:
    """What a result holds. Exactly one of ``answers``, ``metrics`` and ``arrays`` has entries."""

    answers: list[dict[str, Any]]
    """Of statistics; see `pygrid.client.statistics.StatisticAnswer`."""
    metrics: dict[str, float]
    arrays: list[ArrayPreview]
    rows: list[tuple[str, list[Any]]]
    """The first rows of each array with a row for each record."""
    num_arrays: int
    note: str = ""
    """Why nothing is shown."""


def preview_result(kind: JobKind, path: Path) -> ResultPreview:
    """Return a preview of the file of a result. Blocks."""
    empty = ResultPreview([], {}, [], [], 0)
    size = path.stat().st_size
    if size > MAX_BYTES:
        return ResultPreview([], {}, [], [], 0, f"The result has {size:,} bytes, too many to show: download it.")
    data = path.read_bytes()
    try:
        if kind == "statistics":
            answers = msgspec.json.decode(data, type=dict[str, list[dict[str, Any]]])["answers"]
            return ResultPreview(answers, {}, [], [], 0)
        if kind == "evaluate":
            return ResultPreview([], _numbers(msgspec.json.decode(data)), [], [], 0)
        arrays, _ = decode(data)
    except (msgspec.DecodeError, InvalidTensors, KeyError, ValueError):
        # The result of a Worker is untrusted.
        return ResultPreview([], {}, [], [], 0, "The result cannot be read.")
    shown = dict(list(arrays.items())[:MAX_ARRAYS])
    rows = [(name, _rows(array)) for name, array in shown.items() if array.ndim] if kind == "predict" else []
    looks = [ArrayPreview(name, str(array.dtype), array.shape, _norm(array)) for name, array in shown.items()]
    return ResultPreview(empty.answers, {}, looks, rows, len(arrays))


def _numbers(found: object) -> dict[str, float]:
    """Return the numbers in an answer such as ``{"metrics": {"accuracy": 0.9}}``."""
    inner = found.get("metrics", found) if isinstance(found, dict) else {}
    return {
        str(name): float(value)
        for name, value in (inner.items() if isinstance(inner, dict) else ())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _norm(array: np.ndarray[Any, Any]) -> float | None:
    if array.dtype.kind not in "fiu":
        return None
    values = array.astype(np.float64).ravel()
    norm = float(np.linalg.norm(values[np.isfinite(values)]))
    return norm if math.isfinite(norm) else None


def _rows(array: np.ndarray[Any, Any]) -> list[Any]:
    rows: list[Any] = array[:MAX_ROWS].reshape(min(MAX_ROWS, len(array)), -1)[:, :MAX_ROWS].tolist()
    return rows
