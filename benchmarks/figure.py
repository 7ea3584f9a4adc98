"""Measured figures with their budgets, as a Markdown table: what the benchmarks of several parts share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from server_process import leave_nothing_behind


@dataclass(frozen=True)
class Figure:
    """One measured line; the budget is a bound, ``at_least`` tells on which side."""

    what: str
    value: float
    unit: str
    budget: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def kept(self) -> bool:
        return self.budget is None or (self.value >= self.budget if self.at_least else self.value <= self.budget)

    def line(self) -> str:
        """A row of a Markdown table."""
        bound = "" if self.budget is None else f"{'>=' if self.at_least else '<='} {self.budget:g}"
        verdict = "" if self.budget is None else ("kept" if self.kept else "MISSED")
        return f"| {self.what} | {self.value:.3g} {self.unit} | {bound} | {verdict} | {self.note} |"


Measure = Callable[[Path], Coroutine[None, None, list[Figure]]]
"""Measures one part of a benchmark, with an empty folder."""


def measure_parts(description: str, parts: Mapping[str, Measure]) -> int:
    """Run a benchmark as a command: measure all parts or one, and print their figures.

    Returns:
        The exit status: 1 if a figure is beyond its budget.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", choices=sorted(parts), help="measure one part")
    parser.add_argument(
        "--folder", type=Path, help="where data is kept; on a real disk (default: the temporary folder)"
    )
    options = parser.parse_args()
    leave_nothing_behind()
    figures: list[Figure] = []
    print("| what | measured | budget | | note |\n|---|---|---|---|---|")
    for name, measure in parts.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory(prefix=f"pygrid-bench-{name}-", dir=options.folder) as folder:
                found = uvloop.run(measure(Path(folder)))
            for figure in found:
                print(figure.line(), flush=True)
            figures += found
    return 0 if all(figure.kept for figure in figures) else 1
