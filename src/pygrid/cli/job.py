"""``pygrid job``: ask for work on data that one does not see, follow it, take the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.friendly import UrlOption, friendly, read_settings
from pygrid.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pygrid.client import DomainClient
    from pygrid.client.jobs import Job, JobTable
    from pygrid.messages.jobs import JobInfo, StatisticRequest

app = typer.Typer(
    help="Ask for work on data that you do not see, follow it, take the result.", no_args_is_help=True, add_completion=False
)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or how it begins.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the result there: safetensors, or JSON.")]

_ID_CHARS = 32
_STATISTIC_KEYS = ("lower", "upper", "edges", "candidates", "q", "by", "keys")


@app.command("submit")
@friendly
def submit(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    reason: Annotated[str, typer.Option(help="What for, for those who decide.")],
    plan: Annotated[Path | None, typer.Option(help="The plan file; none for statistics.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model, a safetensors file.")] = None,
    kind: Annotated[str, typer.Option(help="train or evaluate.")] = "train",
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            "--statistic",
            "-s",
            help="Ask for figures instead: count, sum:COLUMN, mean:COLUMN, variance:COLUMN (with ,lower=..,upper=..), "
            "histogram:COLUMN,edges=0|10|20, quantile:COLUMN,q=0.5,candidates=0|10|20; each with ,by=COLUMN,keys=a|b. "
            "Can be given several times.",
        ),
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option("--bind", "-b", help="PORT=COLUMN of the plan's data; what is left out is found by name or meaning."),
    ] = None,
    hyper: Annotated[
        list[str] | None, typer.Option("--hyper", "-p", help="A hyperparameter: key=value or a JSON file; several times.")
    ] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="Of private training: key=value or a JSON file, e.g. name=adam; several times.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Records of an update; of a private one on average.")] = 32,
    seed: Annotated[int, typer.Option(help="Of an exact training.")] = 0,
    epsilon: Annotated[float | None, typer.Option(help="The guarantee to run under; left out with delta: exact.")] = None,
    delta: Annotated[float | None, typer.Option(help="Its delta, well below one over the number of records.")] = None,
    clip: Annotated[float, typer.Option(help="Bound of each unit's contribution (L2 norm).")] = 1.0,
    unit: Annotated[str, typer.Option(help="What is protected: record, subject or domain.")] = "record",
    version: Annotated[int | None, typer.Option(help="Of the dataset; default: the newest.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Stay until the job has ended.")] = False,
    output: Output = None,
    url: UrlOption = None,
) -> None:
    """Ask for a job. It is tried on the mock first; then a policy or a person lets it run.

    Example: pygrid job submit patients --plan risk.plan --model risk.safetensors --epsilon 3 --delta 1e-6 --reason "a study"
    """
    from pygrid.client import connect

    privacy: dict[str, Any] = {"epsilon": epsilon, "delta": delta, "unit": unit, "version": version}
    with connect(url) as domain:
        if statistic:
            if plan is not None or model is not None:
                raise InvalidInput("statistics need neither a plan nor a model; leave out --statistic, or these")
            asked = [read_statistic(text) for text in statistic]
            job = domain.statistics(dataset, asked, reason=reason, **privacy)
        else:
            if plan is None or model is None:
                raise InvalidInput("a job needs --plan and --model; statistics need --statistic instead")
            given: dict[str, Any] = {"kind": kind, "epochs": epochs, "batch_size": batch_size, "seed": seed, "clip": clip}
            given |= {"hyper": read_settings(hyper or []), "optimizer": read_settings(optimizer or [])}
            given |= {"binding": _pairs(bind or []), "reason": reason, **privacy}
            job = domain.submit(plan, dataset=dataset, model=model, **given)
        print(job.id)
        if wait or output is not None:
            job.wait(progress=True)
            _give(job, output)


@app.command("list")
@friendly
def list_jobs(
    dataset: Annotated[str | None, typer.Option(help="Only those on this dataset.")] = None,
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only those that you asked for.")] = False,
    url: UrlOption = None,
    as_json: Json = False,
) -> None:
    """List your jobs, and those on datasets that you hold, newest first.

    Example: pygrid job list --state running
    """
    from pygrid.client import connect

    given: dict[str, Any] = {"state": state, "mine": mine}
    with connect(url) as domain:
        print_jobs(domain.jobs(dataset, **given), as_json, "no job fits")


@app.command("show")
@friendly
def show(job_id: JobId, url: UrlOption = None, as_json: Json = False) -> None:
    """Show a job: what was asked, what it costs, where it is.

    Example: pygrid job show 4f1c09
    """
    show_job(job_id, url, as_json)


@app.command("watch")
@friendly
def watch(job_id: JobId, url: UrlOption = None) -> None:
    """Follow a job until it has ended. Ctrl-C ends the following, not the job.

    Example: pygrid job watch 4f1c09
    """
    from pygrid.client import connect
    from pygrid.client.waiting import in_words

    with connect(url) as domain:
        print(in_words(find_job(domain, job_id).wait(progress=True)))


@app.command("result")
@friendly
def result(job_id: JobId, output: Output = None, url: UrlOption = None) -> None:
    """Take the result of a job, once it is released: figures are printed, a model is written to a file.

    Example: pygrid job result 4f1c09 -o model.safetensors
    """
    from pygrid.client import connect

    with connect(url) as domain:
        _give(find_job(domain, job_id), output)


@app.command("cancel")
@friendly
def cancel(job_id: JobId, url: UrlOption = None) -> None:
    """End a job that you asked for. What was charged stays charged.

    Example: pygrid job cancel 4f1c09
    """
    from pygrid.client import connect

    with connect(url) as domain:
        print(f"{job_id} is {find_job(domain, job_id).cancel().state}")


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
            raise InvalidInput(f"--statistic {text!r}: {part!r} is none of {', '.join(f'{key}=' for key in _STATISTIC_KEYS)}")
        given[key] = _value(text, key, value)
    if kind not in ("count", "sum", "mean", "variance", "quantile", "histogram"):
        raise InvalidInput(f"--statistic {text!r}: {kind!r} is none of count, sum, mean, variance, quantile, histogram")
    try:
        asked: StatisticRequest = getattr(statistics, kind)(*([column] if column else []), **given)
    except TypeError as error:  # of the call: something is missing, or not of this kind of question
        raise InvalidInput(f"--statistic {text!r}: {str(error).removeprefix(f'{kind}() ')}") from None
    return asked


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


def _give(job: Job, output: Path | None) -> None:
    import msgspec

    if job.kind == "train" and output is None:
        print(f"the model is there; take it with: pygrid job result {job.id} -o model.safetensors")
        job.result()
        return
    found = job.result(output)
    if output is not None:
        print(f"{output}: {output.stat().st_size:,} bytes")
    else:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


def find_job(domain: DomainClient, job_id: str) -> Job:
    """A job by its id, or by the beginning of it.

    Raises:
        NotFound: none that the caller may see begins so. InvalidInput: several do (``ambiguous_id``).
    """
    if len(job_id) == _ID_CHARS:
        return domain.job(job_id)
    found = [job for job in domain.jobs() if job.id.startswith(job_id)]
    if not found:
        raise NotFound(f"no job that you may see has an id beginning with {job_id!r}", code="job_not_found")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} jobs have an id beginning with {job_id!r}; give more of it", code="ambiguous_id")
    return found[0]


def show_job(job_id: str, url: str | None, as_json: bool) -> None:
    """Print all of a job that the caller may know."""
    from pygrid.client import connect

    with connect(url) as domain:
        job = find_job(domain, job_id)
        if as_json:
            _print_json(job.info())
        else:
            print(job.sheet())


def print_jobs(jobs: JobTable, as_json: bool, if_none: str) -> None:
    """A line for each job."""
    from pygrid.client.sheet import privacy_in_words
    from pygrid.plans.text import one_line

    if as_json:
        _print_json(jobs.infos)
        return
    if not jobs:
        print(if_none)
        return
    rows = [("JOB", "KIND", "DATASET", "STATE", "ASKED BY", "PRIVACY", "REASON")]
    rows += [
        (i.id, i.kind, i.dataset_name, i.state, i.requested_by_email, privacy_in_words(i).partition(";")[0], i.reason)
        for i in jobs.infos
    ]
    rows = [(*row[:-1], one_line(row[-1], 60)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_json(value: JobInfo | Sequence[JobInfo]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
