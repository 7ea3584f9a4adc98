"""``pygrid request``: decisions of data owners on jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from pygrid.cli.common import JsonOption, UrlOption, YesOption, confirm, connect
from pygrid.cli.help import App
from pygrid.cli.job import JobId, print_jobs, print_review, show_job
from pygrid.cli.output import say

app = App("Decide on jobs that others submitted for your datasets.\n\nExample: pygrid request list")

Comment = Annotated[str, typer.Option("--comment", "-c", metavar="TEXT", help="Comment, shown to the requester.")]


@app.command("list")
def list_requests(
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Dataset of the jobs; default: all.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs and held results that wait for your decision.

    Example: pygrid request list
    """
    with connect(url) as domain:
        print_jobs(domain.requests(dataset), as_json, "no job waits for your decision")


@app.command("show")
def show(job_id: JobId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the review summary of a job: request, privacy cost, and what leaves the Domain.

    Example: pygrid request show 4f1c09
    """
    show_job(job_id, url, as_json)


@app.command("approve")
def approve(job_id: JobId, comment: Comment = "", yes: YesOption = False, url: UrlOption = None) -> None:
    """Approve a job or the release of its held result, after the review summary.

    Example: pygrid request approve 4f1c09
    """
    with connect(url) as domain:
        job = domain.job(job_id)
        if not yes:
            print_review(job)
            confirm("Approve this?")
        say(f"{job_id} is {job.approve(comment).state}")


@app.command("deny")
def deny(job_id: JobId, comment: Comment = "", url: UrlOption = None) -> None:
    """Deny a job or the release of its held result.

    Example: pygrid request deny 4f1c09 --comment "too few records"
    """
    with connect(url) as domain:
        say(f"{job_id} is {domain.job(job_id).deny(comment).state}")


@app.command("revoke")
def revoke(job_id: JobId, url: UrlOption = None) -> None:
    """Revoke an approval, if the job has not started.

    Example: pygrid request revoke 4f1c09
    """
    with connect(url) as domain:
        say(f"{job_id} is {domain.job(job_id).revoke().state}")
