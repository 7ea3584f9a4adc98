"""``pygrid job submit`` and ``pygrid job predict``: submit jobs on data of others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli import training_options as options
from pygrid.cli.common import UrlOption, connect, read_settings
from pygrid.cli.output import is_terminal, say, say_json, say_table
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client import DomainClient
    from pygrid.client.jobs import Job
    from pygrid.messages.jobs import StatisticRequest

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]
Bind = Annotated[
    list[str] | None,
    typer.Option(
        "--bind", "-b", metavar="INPUT=COLUMN", help="Column of an input; default: by name or meaning; repeatable."
    ),
]
Version = Annotated[int | None, typer.Option(metavar="N", help="Version of the dataset; default: the newest.")]
PoolName = Annotated[
    str, typer.Option(metavar="NAME", help="Pool in which the job runs; default: the first free one that may run it.")
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until the job ends.")]
Statistics = Annotated[
    list[str] | None,
    typer.Option(
        "--statistic",
        "-s",
        metavar="STATISTIC",
        help="Statistic instead of a plan: count, count:COLUMN, sum:COLUMN, mean:COLUMN, variance:COLUMN "
        "(with ,lower=X,upper=X), histogram:COLUMN,edges=0|10|20, quantile:COLUMN,q=0.5,candidates=0|10|20; "
        "each with ,by=COLUMN,keys=a|b, or ,by=COLUMN,per=month,keys=2020-11|2020-12 for dates; repeatable.",
    ),
]
MetricBounds = Annotated[
    list[str] | None,
    typer.Option(
        "--metric-bounds",
        metavar="METRIC=LOWER:UPPER",
        help="Bounds of a metric of a private evaluation, like loss=0:10; repeatable.",
    ),
]

_STATISTIC_KEYS = ("lower", "upper", "edges", "candidates", "q", "by", "keys", "per")


def submit(
    dataset: DatasetName,
    reason: options.Reason,
    plan: Annotated[Path | None, typer.Option(metavar="PATH", help="Plan file; none for statistics.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="PATH", help="Model, a safetensors file.")] = None,
    kind: Annotated[str, typer.Option(metavar="KIND", help="Kind of job: train or evaluate.")] = "train",
    statistic: Statistics = None,
    bind: Bind = None,
    hyper: options.Hyper = None,
    optimizer: options.Optimizer = None,
    metric_bounds: MetricBounds = None,
    epochs: options.Epochs = 1,
    batch_size: options.BatchSize = 32,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of a non-private training.")] = 0,
    epsilon: options.Epsilon = None,
    delta: options.Delta = None,
    clip: options.Clip = 1.0,
    unit: options.Unit = None,
    version: Version = None,
    pool: PoolName = "",
    wait: Wait = False,
    output: options.Output = None,
    url: UrlOption = None,
) -> None:
    """Submit a job. It runs on the mock dataset first; then a policy or the data owner approves it.

    Example:
        pygrid job submit patients --plan risk.plan --model risk.safetensors \\
            --epsilon 3 --delta 1e-6 --reason "a study"
    """
    common: dict[str, Any] = {"reason": reason, "epsilon": epsilon, "delta": delta, "unit": unit, "version": version}
    common["pool"] = pool
    training: dict[str, Any] = {"kind": kind, "epochs": epochs, "batch_size": batch_size, "seed": seed, "clip": clip}
    training |= {"hyper": read_settings(hyper or []), "optimizer": read_settings(optimizer or [])}
    training |= {"binding": _pairs(bind or []), "metric_bounds": read_metric_bounds(metric_bounds or [])}

    def send(domain: DomainClient) -> Job:
        if statistic:
            if plan is not None or model is not None:
                raise InvalidInput("statistics need neither a plan nor a model; leave out --statistic, or these")
            return domain.statistics(dataset, [read_statistic(text) for text in statistic], **common)
        if plan is None or model is None:
            raise InvalidInput("a job needs --plan and --model; statistics need --statistic instead")
        return domain.submit(plan, dataset=dataset, model=model, **training, **common)

    _submit(send, url, wait, output)


def predict(
    dataset: DatasetName,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.")],
    reason: options.Reason,
    bind: Bind = None,
    select: Annotated[
        list[str] | None, typer.Option(metavar="OUTPUT", help="Output of the model; default: all; repeatable.")
    ] = None,
    max_records: Annotated[
        int | None, typer.Option(metavar="N", help="Number of records, from the first; default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Records of a batch.")] = 64,
    version: Version = None,
    pool: PoolName = "",
    wait: Wait = False,
    output: options.Output = None,
    url: UrlOption = None,
) -> None:
    """Submit a job that predicts for each record with an ONNX model.

    The data owner approves the job and the release of its result, a safetensors file.

    Example:
        pygrid job predict patients risk.onnx --reason "triage" --bind x=measurements
    """
    given: dict[str, Any] = {"reason": reason, "binding": _pairs(bind or []), "select": tuple(select or ())}
    given |= {"max_records": max_records, "batch_size": batch_size, "version": version, "pool": pool}
    _submit(lambda domain: domain.predict(model, dataset=dataset, **given), url, wait, output)


def _submit(send: Callable[[DomainClient], Job], url: str | None, wait: bool, output: Path | None) -> None:
    """Submit a job and print its id; then wait for its result if requested."""
    with connect(url) as domain:
        job = send(domain)
        say(job.id)
        if wait or output is not None:
            job.wait(progress=True)
            print_result(job, output)


def read_statistic(text: str) -> StatisticRequest:
    """A statistic from ``KIND[:COLUMN][,key=value ...]``; items of a list are separated by ``|``.

    Raises:
        InvalidInput: names the part that is not valid.
    """
    from pygrid.client import statistics

    head, *parts = text.split(",")
    kind, _, column = head.partition(":")
    given: dict[str, Any] = {}
    for part in parts:
        key, is_pair, value = part.partition("=")
        if not is_pair or key not in _STATISTIC_KEYS:
            raise InvalidInput(
                f"--statistic {text!r}: {part!r} is not valid; use {', '.join(f'{key}=' for key in _STATISTIC_KEYS)}"
            )
        given[key] = _value(text, key, value)
    if kind not in ("count", "sum", "mean", "variance", "quantile", "histogram"):
        raise InvalidInput(
            f"--statistic {text!r}: {kind!r} is not valid; use count, sum, mean, variance, quantile, histogram"
        )
    given |= {"column": column} if column else {}
    function: Callable[..., StatisticRequest] = getattr(statistics, kind)
    fields = inspect.signature(function).parameters
    missing = [name for name, field in fields.items() if field.default is field.empty and name not in given]
    if missing:
        named = " and ".join("a column, as in " + kind + ":age" if name == "column" else f"{name}=" for name in missing)
        raise InvalidInput(f"--statistic {text!r}: {kind} needs {named}")
    if unknown := given.keys() - fields.keys():
        takes = ", ".join(f"{name}=" for name in fields if name != "column")
        raise InvalidInput(f"--statistic {text!r}: {kind} has no {min(unknown)}=; it takes {takes}")
    return function(**given)


def read_metric_bounds(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Bounds by metric from ``METRIC=LOWER:UPPER``. Raises InvalidInput: names the text that is not of this form."""
    bounds = {}
    for text in given:
        name, _, numbers = text.rpartition("=")
        lower, _, upper = numbers.partition(":")
        try:
            bounds[name] = float(lower), float(upper)
        except ValueError:
            raise InvalidInput(f"--metric-bounds {text!r} is not METRIC=LOWER:UPPER, like loss=0:10") from None
    return bounds


def _value(text: str, key: str, value: str) -> Any:
    if key in ("by", "per"):
        return value
    if key == "keys":
        return [int(item) if item.lstrip("-").isdecimal() else item for item in value.split("|")]
    try:
        limits = [_limit(item) for item in value.split("|")] if key != "q" else [float(value)]
        return limits if key in ("edges", "candidates") else limits[0]
    except ValueError:
        raise InvalidInput(f"--statistic {text!r}: {value!r} is not a number") from None


def _limit(text: str) -> float | str:
    """A number, or a date as it is. Raises ValueError: neither."""
    return text if re.match(r"\d{4}-\d\d-", text) else float(text)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        key, is_pair, value = item.partition("=")
        if not is_pair:
            raise InvalidInput(f"--bind {item!r} is not INPUT=COLUMN, like x=measurements")
        pairs[key] = value
    return pairs


def print_result(job: Job, output: Path | None) -> None:
    """Print the figures of a job, or write its result to a file; arrays are never printed."""
    from pygrid.client.jobs import WITH_ARRAYS

    if job.kind in WITH_ARRAYS and output is None:
        what = "model is" if job.kind == "train" else "predictions are"
        say(f"the {what} ready; download with: pygrid job result {job.id} -o FILE.safetensors")
        job.result()
        return
    if job.kind == "statistics" and output is None and is_terminal():
        say_table(job.answers().rows)
        return
    found = job.result(output)
    if output is not None:
        say(f"{output}: {output.stat().st_size:,} bytes")
    else:
        say_json(found)
