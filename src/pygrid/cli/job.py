"""``pygrid job``: submit jobs on data of others, follow them, download results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import JsonOption, UrlOption, connect
from pygrid.cli.help import App
from pygrid.cli.job_submit import predict, print_result, submit
from pygrid.cli.output import say, say_facts, say_json, say_table
from pygrid.cli.training_options import Output

if TYPE_CHECKING:
    from pygrid.client.jobs import Job, JobTable

app = App("Submit jobs on data that you cannot see, follow them, download results.\n\nExample: pygrid job list")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, or its first 6 or more characters.")]


app.command("submit")(submit)
app.command("predict")(predict)


@app.command("list")
def list_jobs(
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Dataset of the jobs; default: all.")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="State of the jobs; default: all.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="List only jobs that you submitted.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs and those on your datasets, newest first.

    Example: pygrid job list --state running
    """
    given: dict[str, Any] = {"state": state, "mine": mine}
    with connect(url) as domain:
        print_jobs(domain.jobs(dataset, **given), as_json, "no job matches")


@app.command("show")
def show(job_id: JobId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a job with its request, its privacy cost and its state.

    Example: pygrid job show 4f1c09
    """
    show_job(job_id, url, as_json)


@app.command("watch")
def watch(job_id: JobId, url: UrlOption = None) -> None:
    """Follow a job until it ends. Ctrl-C stops the display, not the job.

    Example: pygrid job watch 4f1c09
    """
    from pygrid.client.display.job_progress import in_words

    with connect(url) as domain:
        say(in_words(domain.job(job_id).wait(progress=True).info()))


@app.command("result")
def result(job_id: JobId, output: Output = None, url: UrlOption = None) -> None:
    """Download the result of a job, once it is released.

    Statistics are printed; a model is written to a file.

    Example: pygrid job result 4f1c09 -o model.safetensors
    """
    with connect(url) as domain:
        print_result(domain.job(job_id), output)


@app.command("cancel")
def cancel(job_id: JobId, url: UrlOption = None) -> None:
    """Cancel a job that you submitted. Its privacy cost stays charged.

    Example: pygrid job cancel 4f1c09
    """
    with connect(url) as domain:
        say(f"{job_id} is {domain.job(job_id).cancel().state}")


def show_job(job_id: str, url: str | None, as_json: bool) -> None:
    """Print all that the caller may know of a job."""
    with connect(url) as domain:
        job = domain.job(job_id)
        if as_json:
            say_json(job.info())
        else:
            print_review(job)


def print_review(job: Job) -> None:
    """Print the review summary of a job."""
    from pygrid.summaries.jobs import sheet

    say_facts(sheet(job.info()))


def print_jobs(jobs: JobTable, as_json: bool, if_none: str) -> None:
    """Print a line for each job."""
    if as_json:
        say_json(jobs.infos)
    else:
        say_table(jobs, if_none)
