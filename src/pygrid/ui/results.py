"""The result of a job as tables and bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pygrid.core.statistic_errors import Z95, AnswerCell, read_answer
from pygrid.errors import InvalidTensors
from pygrid.messages.jobs import JobInfo, JobRequest
from pygrid.tensors.safetensors import decode
from pygrid.units import decimal

MAX_READ_BYTES = 16 * 1024**2
"""Largest result that is shown; larger ones are only downloaded."""
MAX_ROWS = 20
_WIDTH, _ROW = 480.0, 28
"""Size of the drawing, in the units of the SVG."""


class BarShape(msgspec.Struct, frozen=True):
    """A bar with its interval, in the units of the drawing."""

    label: str
    y: int
    x: float
    width: float
    low: float | None
    high: float | None
    words: str


class BarPlot(msgspec.Struct, frozen=True):
    """Horizontal bars with their 95% intervals."""

    title: str
    bars: list[BarShape]
    zero: float
    height: int


class AnswerView(msgspec.Struct, frozen=True):
    title: str
    cells: list[AnswerCell]
    has_margins: bool
    plot: BarPlot | None


class ArrayLine(msgspec.Struct, frozen=True):
    """An array of a model, or the outputs of a model."""

    name: str
    shape: str
    norm: float


class ResultView(msgspec.Struct, frozen=True):
    num_bytes: int
    answers: list[AnswerView]
    metrics: list[tuple[str, float | None, float | None]]
    """Name, value, and half of its 95% interval."""
    arrays: list[ArrayLine]
    rows: list[list[str]]
    """First rows of predictions; the first one has the names."""
    note: str
    """Why there is no more to see; empty otherwise."""


def read_result(path: Path, info: JobInfo) -> ResultView:
    """Return what a page shows of a result. Reads the file, so call it in a thread."""
    num_bytes = path.stat().st_size
    if num_bytes > MAX_READ_BYTES:
        return ResultView(num_bytes, [], [], [], [], "The result is too large to be shown: download it.")
    data = path.read_bytes()
    if info.kind in ("statistics", "evaluate"):
        found = json.loads(data)
        answers = _answers(found.get("answers", []), info.request)
        return ResultView(num_bytes, answers, _metrics(found), [], [], "")
    try:
        arrays, _ = decode(data)
    except InvalidTensors:
        return ResultView(num_bytes, [], [], [], [], "The result is not a safetensors file: download it.")
    lines = [
        ArrayLine(
            name, " x ".join(map(str, array.shape)) or "one value", float(np.linalg.norm(array.astype(np.float64)))
        )
        for name, array in arrays.items()
    ]
    rows = _rows(arrays) if info.kind == "predict" else []
    return ResultView(num_bytes, [], [], lines, rows, "")


def _answers(answers: Sequence[dict[str, Any]], request: JobRequest | None) -> list[AnswerView]:
    asked = () if request is None else request.statistics
    tables = []
    for number, answer in enumerate(answers):
        wanted = asked[number] if number < len(asked) else None
        lower, upper = (_as_number(wanted.lower), _as_number(wanted.upper)) if wanted else (0.0, 0.0)
        edges = [_as_number(edge) for edge in wanted.edges] if wanted else []
        cells = read_answer(answer, lower, upper, edges)
        title = answer["kind"] + (f" of {answer['column']}" if answer["column"] else " of records")
        title += f" by {answer['by']}" if answer.get("by") else ""
        has_margins = any(cell.margin is not None for cell in cells)
        tables.append(AnswerView(title, cells, has_margins, draw_bars(title, cells)))
    return tables


def _as_number(bound: float | str) -> float:
    return bound if isinstance(bound, float | int) else 0.0


def _metrics(found: dict[str, Any]) -> list[tuple[str, float | None, float | None]]:
    noise = found.get("noise_std")
    errors: dict[str, Any] = noise if isinstance(noise, dict) else {}
    return [
        (name, value, None if errors.get(name) is None else Z95 * errors[name])
        for name, value in sorted((found.get("metrics") or {}).items())
    ]


def draw_bars(title: str, cells: Sequence[AnswerCell]) -> BarPlot | None:
    """Return the bars of an answer with several numbers. None: there are less than two, or too many."""
    known = [cell for cell in cells if cell.value is not None]
    if not 2 <= len(known) <= 60:
        return None
    low = min(0.0, *((cell.value or 0.0) - (cell.margin or 0.0) for cell in known))
    high = max(0.0, *((cell.value or 0.0) + (cell.margin or 0.0) for cell in known))
    scale = _WIDTH / ((high - low) or 1.0)
    bars = []
    for number, cell in enumerate(known):
        value, margin = cell.value or 0.0, cell.margin
        words = f"{cell.key}: {decimal(value, 4)}" + ("" if margin is None else f" \u00b1 {decimal(margin, 3)}")
        bars.append(
            BarShape(
                label=cell.key[:40],
                y=number * _ROW,
                x=(min(value, 0.0) - low) * scale,
                width=max(1.0, abs(value) * scale),
                low=None if margin is None else (value - margin - low) * scale,
                high=None if margin is None else (value + margin - low) * scale,
                words=words,
            )
        )
    return BarPlot(title, bars, -low * scale, len(known) * _ROW)


def _rows(arrays: dict[str, Any]) -> list[list[str]]:
    """Return the first rows of each output; of a wide one the first numbers."""
    names, columns = [], []
    for name, array in arrays.items():
        flat = array[:MAX_ROWS].reshape(min(MAX_ROWS, len(array)), -1) if array.ndim else array.reshape(1, 1)
        for at in range(min(5, flat.shape[1])):
            names.append(name if flat.shape[1] == 1 else f"{name}[{at}]")
            columns.append([decimal(value, 4) for value in flat[:, at].tolist()])
    return [names, *map(list, zip(*columns, strict=True))] if columns else []
