"""``pygrid job submit`` and ``pygrid job predict``: ask for work on data that one does not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import UrlOption, friendly, read_settings
from pygrid.cli.output import say, say_json
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client import DomainClient
    from pygrid.client.jobs import Job
    from pygrid.messages.jobs import StatisticRequest

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")]
Reason = Annotated[str, typer.Option(help="What for, for those who decide.")]
Bind = Annotated[
    list[str] | None,
    typer.Option("--bind", "-b", help="INPUT=COLUMN; what is left out is found by name or meaning. Several times."),
]
Version = Annotated[int | None, typer.Option(help="Of the dataset; default: the newest.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Stay until the job has ended.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the result there: safetensors, or JSON.")]
Statistics = Annotated[
    list[str] | None,
    typer.Option(
        "--statistic",
        "-s",
        help="Ask for figures instead: count, count:COLUMN, sum:COLUMN, mean:COLUMN, variance:COLUMN (with "
        ",lower=..,upper=..), histogram:COLUMN,edges=0|10|20, quantile:COLUMN,q=0.5,candidates=0|10|20; each with "
        ",by=COLUMN,keys=a|b. "
        "Can be given several times.",
    ),
]
Hyper = Annotated[
    list[str] | None, typer.Option("--hyper", "-p", help="A hyperparameter: key=value or a JSON file; several times.")
]
Optimizer = Annotated[
    list[str] | None, typer.Option(help="Of private training: key=value or a JSON file, e.g. name=adam; several times.")
]
MetricBounds = Annotated[
    list[str] | None,
    typer.Option(
        "--metric-bounds",
        help=(
            "Bounds of a metric of a private evaluation: METRIC=LOWER:UPPER, e.g. loss=0:10. Can be given several "
            "times."
        ),
    ),
]

_STATISTIC_KEYS = ("lower", "upper", "edges", "candidates", "q", "by", "keys")


@friendly
def submit(
    dataset: DatasetName,
    reason: Reason,
    plan: Annotated[Path | None, typer.Option(help="The plan file; none for statistics.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model, a safetensors file.")] = None,
    kind: Annotated[str, typer.Option(help="train or evaluate.")] = "train",
    statistic: Statistics = None,
    bind: Bind = None,
    hyper: Hyper = None,
    optimizer: Optimizer = None,
    metric_bounds: MetricBounds = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Records of an update; of a private one on average.")] = 32,
    seed: Annotated[int, typer.Option(help="Of an exact training.")] = 0,
    epsilon: Annotated[
        float | None, typer.Option(help="The guarantee to run under; left out with delta: exact.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Its delta, well below one over the number of records.")] = None,
    clip: Annotated[float, typer.Option(help="Bound of each unit's contribution (L2 norm).")] = 1.0,
    unit: Annotated[str, typer.Option(help="What is protected: record, subject or domain.")] = "record",
    version: Version = None,
    wait: Wait = False,
    output: Output = None,
    url: UrlOption = None,
) -> None:
    """Ask for a job. It is tried on the mock first; then a policy or a person lets it run.

    Example: pygrid job submit patients --plan risk.plan --model risk.safetensors --epsilon 3 --delta 1e-6 --reason "a
        study"
    """
    common: dict[str, Any] = {"reason": reason, "epsilon": epsilon, "delta": delta, "unit": unit, "version": version}
    training: dict[str, Any] = {"kind": kind, "epochs": epochs, "batch_size": batch_size, "seed": seed, "clip": clip}
    training |= {"hyper": read_settings(hyper or []), "optimizer": read_settings(optimizer or [])}
    training |= {"binding": _pairs(bind or []), "metric_bounds": read_metric_bounds(metric_bounds or [])}

    def ask(domain: DomainClient) -> Job:
        if statistic:
            if plan is not None or model is not None:
                raise InvalidInput("statistics need neither a plan nor a model; leave out --statistic, or these")
            return domain.statistics(dataset, [read_statistic(text) for text in statistic], **common)
        if plan is None or model is None:
            raise InvalidInput("a job needs --plan and --model; statistics need --statistic instead")
        return domain.submit(plan, dataset=dataset, model=model, **training, **common)

    _see_through(ask, url, wait, output)


@friendly
def predict(
    dataset: DatasetName,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX file.")],
    reason: Reason,
    bind: Bind = None,
    select: Annotated[
        list[str] | None, typer.Option(help="An output that is wanted; default: all of the model's. Several times.")
    ] = None,
    max_records: Annotated[int | None, typer.Option(help="Only for the first so many records.")] = None,
    batch_size: Annotated[int, typer.Option(help="Records that the model gets at once.")] = 64,
    version: Version = None,
    wait: Wait = False,
    output: Output = None,
    url: UrlOption = None,
) -> None:
    """Ask to have an ONNX model answer for each record. A person approves it, and signs off the result: a safetensors
    file.

    Example: pygrid job predict patients risk.onnx --reason "whom to call first" --bind x=measurements
    """
    given: dict[str, Any] = {"reason": reason, "binding": _pairs(bind or []), "select": tuple(select or ())}
    given |= {"max_records": max_records, "batch_size": batch_size, "version": version}
    _see_through(lambda domain: domain.predict(model, dataset=dataset, **given), url, wait, output)


def _see_through(ask: Callable[[DomainClient], Job], url: str | None, wait: bool, output: Path | None) -> None:
    """Ask for a job, print its id, and stay for its result if that is wanted."""
    from pygrid.client import connect

    with connect(url) as domain:
        job = ask(domain)
        say(job.id)
        if wait or output is not None:
            job.wait(progress=True)
            give(job, output)


def read_statistic(text: str) -> StatisticRequest:
    """A question from ``KIND[:COLUMN][,key=value ...]``; lists are written with ``|``.

    Raises:
        InvalidInput: names the part that makes no sense.
    """
    from pygrid.client import statistics

    head, *parts = text.split(",")
    kind, _, column = head.partition(":")
    given: dict[str, Any] = {}
    for part in parts:
        key, is_pair, value = part.partition("=")
        if not is_pair or key not in _STATISTIC_KEYS:
            raise InvalidInput(
                f"--statistic {text!r}: {part!r} is none of {', '.join(f'{key}=' for key in _STATISTIC_KEYS)}"
            )
        given[key] = _value(text, key, value)
    if kind not in ("count", "sum", "mean", "variance", "quantile", "histogram"):
        raise InvalidInput(f"--statistic {text!r}: {kind!r} is none of count, sum, mean, variance, quantile, histogram")
    try:
        asked: StatisticRequest = getattr(statistics, kind)(*([column] if column else []), **given)
    except TypeError as error:  # of the call: something is missing, or not of this kind of question
        raise InvalidInput(f"--statistic {text!r}: {str(error).removeprefix(f'{kind}() ')}") from None
    return asked


def read_metric_bounds(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Bounds by metric from ``METRIC=LOWER:UPPER``. Raises InvalidInput: names the text that is not of this form."""
    bounds = {}
    for text in given:
        name, _, numbers = text.rpartition("=")
        lower, _, upper = numbers.partition(":")
        try:
            bounds[name] = float(lower), float(upper)
        except ValueError:
            raise InvalidInput(f"--metric-bounds {text!r} is not METRIC=LOWER:UPPER, e.g. loss=0:10") from None
    return bounds


def _value(text: str, key: str, value: str) -> Any:
    if key == "by":
        return value
    if key == "keys":
        return [int(item) if item.lstrip("-").isdecimal() else item for item in value.split("|")]
    try:
        return [float(item) for item in value.split("|")] if key in ("edges", "candidates") else float(value)
    except ValueError:
        raise InvalidInput(f"--statistic {text!r}: {value!r} is not a number") from None


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        key, is_pair, value = item.partition("=")
        if not is_pair:
            raise InvalidInput(f"--bind {item!r} is not PORT=COLUMN, e.g. x=measurements")
        pairs[key] = value
    return pairs


def give(job: Job, output: Path | None) -> None:
    """Print the figures of a job, or write its result to a file; arrays are never printed."""

    from pygrid.client.jobs import WITH_ARRAYS

    if job.kind in WITH_ARRAYS and output is None:
        what = "model is" if job.kind == "train" else "answers are"
        say(f"the {what} there; take it with: pygrid job result {job.id} -o FILE.safetensors")
        job.result()
        return
    found = job.result(output)
    if output is not None:
        say(f"{output}: {output.stat().st_size:,} bytes")
    else:
        say_json(found)
