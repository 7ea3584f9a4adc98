"""``pygrid audit``: see that nothing in the audit log was changed, and read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import friendly
from pygrid.cli.local_store import DatabaseUrl, DataDir, stored_domain
from pygrid.cli.output import say

app = typer.Typer(help="Check the audit log of a Domain, and read it.", no_args_is_help=True, add_completion=False)

BROKEN = 2
"""Exit code for a log that does not verify; 1 is for what could not be looked at."""


@app.command("verify")
@friendly
def verify(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    head: Annotated[
        Path | None,
        typer.Option(help="An exported head, kept elsewhere; default: the one in the data folder, if there is one."),
    ] = None,
) -> None:
    """Follow the audit log, add up all charges, and compare each budget with it; exit code 2 if anything was changed.

    Example: pygrid audit verify --data-dir ./pygrid-data
    """
    from pygrid.storage import audit, budget_log, budgets

    with stored_domain(data_dir, database_url) as (folder, database):
        path = head or folder / audit.HEAD_FILE
        known = audit.read_head(path) if head is not None or path.exists() else None
        fault = database.read_now(lambda connection: audit.verify(connection, known))
        newest = database.read_now(audit.get_head)
        mismatch = database.read_now(budgets.find_mismatch)
        altered = None if fault is not None else database.read_now(budget_log.find_altered_cap)
    if fault is not None:
        say(f"BROKEN at entry {fault.number}: {fault.reason}")
        raise typer.Exit(BROKEN)
    if mismatch is not None:
        say(
            f"BROKEN: what user {mismatch[1]} is said to have spent of dataset {mismatch[0]} is not the sum of the "
            "charges"
        )
        raise typer.Exit(BROKEN)
    if altered is not None:
        say(f"BROKEN: {altered}")
        raise typer.Exit(BROKEN)
    say(f"{newest.number} entries, each as it was written; the newest is {newest.hash}")
    if known is None:
        say(
            f"There was no exported head to compare with ({path}), so a log written anew as a whole would look the "
            "same."
        )
    else:
        say(f"The chain leads through entry {known.number}, whose head is in {path}.")


@app.command("show")
@friendly
def show(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    last: Annotated[int, typer.Option(min=1, help="So many entries, the newest.")] = 20,
) -> None:
    """Print the newest entries of the audit log, one a line.

    Example: pygrid audit show --last 50
    """
    import msgspec

    from pygrid.storage import audit

    with stored_domain(data_dir, database_url) as (_, database):
        newest = database.read_now(audit.get_head).number
        entries = database.read_now(lambda connection: audit.list_entries(connection, after=newest - last, limit=last))
    for entry in entries:
        who = "the Domain" if entry.actor is None else f"user {entry.actor}"
        say(
            f"{entry.number}  {entry.at:%Y-%m-%d %H:%M:%S}  {who}  {entry.action}  "
            f"{msgspec.json.encode(entry.data).decode()}"
        )
