"""Options that ``pygrid job submit`` and ``pygrid federate`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SETTING = "key=value or a JSON file; repeatable."

Reason = Annotated[str, typer.Option(metavar="TEXT", help="Purpose, shown to the data owner.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="PATH", help="File for the result.")]
Epochs = Annotated[int, typer.Option(metavar="N", help="Passes over the data.")]
BatchSize = Annotated[int, typer.Option(metavar="N", help="Records of a batch; in private training, on average.")]
Hyper = Annotated[
    list[str] | None, typer.Option("--hyper", "-p", metavar="SETTING", help=f"Hyperparameter: {_SETTING}")
]
Optimizer = Annotated[
    list[str] | None, typer.Option(metavar="SETTING", help=f"Optimizer of private training: {_SETTING}")
]
ServerOptimizer = Annotated[
    list[str] | None, typer.Option(metavar="SETTING", help=f"Optimizer of the coordinator: {_SETTING}")
]
Epsilon = Annotated[
    float | None, typer.Option(metavar="X", help="Privacy guarantee; a job without epsilon and delta is non-private.")
]
Delta = Annotated[
    float | None, typer.Option(metavar="X", help="Delta of the guarantee; well below 1 / number of records.")
]
Clip = Annotated[float, typer.Option(metavar="X", help="Bound of each unit's contribution (L2 norm).")]
Unit = Annotated[
    str | None,
    typer.Option(metavar="UNIT", help="Unit that is protected: record, subject or domain; default: by the dataset."),
]
