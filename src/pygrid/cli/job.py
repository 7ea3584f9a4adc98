"""``pygrid job``: ask for work on data that one does not see, follow it, take the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import UrlOption, friendly
from pygrid.cli.job_submit import Output, give, predict, submit
from pygrid.cli.output import say, say_columns, say_json, say_lines

if TYPE_CHECKING:
    from pygrid.client.jobs import JobTable

app = typer.Typer(
    help="Ask for work on data that you do not see, follow it, take the result.",
    no_args_is_help=True,
    add_completion=False,
)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or how it begins.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


app.command("submit")(submit)
app.command("predict")(predict)


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
    from pygrid.client.display.job_progress import in_words

    with connect(url) as domain:
        say(in_words(domain.job(job_id).wait(progress=True)))


@app.command("result")
@friendly
def result(job_id: JobId, output: Output = None, url: UrlOption = None) -> None:
    """Take the result of a job, once it is released: figures are printed, a model is written to a file.

    Example: pygrid job result 4f1c09 -o model.safetensors
    """
    from pygrid.client import connect

    with connect(url) as domain:
        give(domain.job(job_id), output)


@app.command("cancel")
@friendly
def cancel(job_id: JobId, url: UrlOption = None) -> None:
    """End a job that you asked for. What was charged stays charged.

    Example: pygrid job cancel 4f1c09
    """
    from pygrid.client import connect

    with connect(url) as domain:
        say(f"{job_id} is {domain.job(job_id).cancel().state}")


def show_job(job_id: str, url: str | None, as_json: bool) -> None:
    """Print all of a job that the caller may know."""
    from pygrid.client import connect

    with connect(url) as domain:
        job = domain.job(job_id)
        if as_json:
            say_json(job.info())
        else:
            say_lines(job.sheet())


def print_jobs(jobs: JobTable, as_json: bool, if_none: str) -> None:
    """A line for each job."""
    from pygrid.client.display.review import privacy_in_words
    from pygrid.plans.text import one_line

    if as_json:
        say_json(jobs.infos)
        return
    if not jobs:
        say(if_none)
        return
    rows = [("JOB", "KIND", "DATASET", "STATE", "ASKED BY", "PRIVACY", "REASON")]
    rows += [
        (i.id, i.kind, i.dataset_name, i.state, i.requested_by_email, privacy_in_words(i).partition(";")[0], i.reason)
        for i in jobs.infos
    ]
    rows = [(*row[:-1], one_line(row[-1], 60)) for row in rows]
    say_columns(rows)
