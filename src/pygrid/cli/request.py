"""``pygrid request``: for those who hold data: see what is asked of it, and decide."""

from __future__ import annotations

from typing import Annotated

import typer

from pygrid.cli.common import UrlOption, friendly
from pygrid.cli.job import JobId, Json, print_jobs, show_job
from pygrid.cli.output import say, say_lines

app = typer.Typer(
    help="See what is asked of the data that you hold, and decide.", no_args_is_help=True, add_completion=False
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Comment = Annotated[str, typer.Option("--comment", "-c", help="Who asked reads it.")]


@app.command("list")
@friendly
def list_requests(
    dataset: Annotated[str | None, typer.Option(help="Only those on this dataset.")] = None,
    url: UrlOption = None,
    as_json: Json = False,
) -> None:
    """List what waits for a decision: jobs that want to run, and results that are held.

    Example: pygrid request list
    """
    from pygrid.client import connect

    with connect(url) as domain:
        print_jobs(domain.requests(dataset), as_json, "nothing waits for you")


@app.command("show")
@friendly
def show(job_id: JobId, url: UrlOption = None, as_json: Json = False) -> None:
    """Show what a request asks, what it costs, what leaves, and what else waits: the sheet to decide by.

    Example: pygrid request show 4f1c09
    """
    show_job(job_id, url, as_json)


@app.command("approve")
@friendly
def approve(job_id: JobId, comment: Comment = "", yes: Yes = False, url: UrlOption = None) -> None:
    """Let a job run, or let its held result out, after a look at the sheet.

    Example: pygrid request approve 4f1c09
    """
    from pygrid.client import connect

    with connect(url) as domain:
        job = domain.job(job_id)
        if not yes:
            say_lines(job.sheet())
            typer.confirm("Approve this?", abort=True)
        say(f"{job_id} is {job.approve(comment).state}")


@app.command("deny")
@friendly
def deny(job_id: JobId, comment: Comment = "", url: UrlOption = None) -> None:
    """Refuse a job, or its held result.

    Example: pygrid request deny 4f1c09 --comment "too few records for this"
    """
    from pygrid.client import connect

    with connect(url) as domain:
        say(f"{job_id} is {domain.job(job_id).deny(comment).state}")


@app.command("revoke")
@friendly
def revoke(job_id: JobId, url: UrlOption = None) -> None:
    """Take an approval back, as long as the job does not run yet.

    Example: pygrid request revoke 4f1c09
    """
    from pygrid.client import connect

    with connect(url) as domain:
        say(f"{job_id} is {domain.job(job_id).revoke().state}")
