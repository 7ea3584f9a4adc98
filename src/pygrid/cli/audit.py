"""``pygrid audit``: verify and show the audit log of a Domain."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import JsonOption
from pygrid.cli.help import App
from pygrid.cli.local_store import DatabaseUrl, DataDir, stored_domain
from pygrid.cli.output import say, say_json, say_table

app = App("Verify and show the audit log of a Domain.\n\nExample: pygrid audit verify")

BROKEN = 2
"""Exit code for a log that does not verify; 1 means that it could not be read."""


@app.command("verify")
def verify(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    head: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Exported head of the log; default: that of the data folder, if present."),
    ] = None,
) -> None:
    """Verify the hash chain of the audit log, and compare budgets and charges with it.

    The exit code is 2 if anything was modified.

    Example: pygrid audit verify --data-dir ./pygrid-data
    """
    from pygrid.storage import audit, budget_log, charges
    from pygrid.storage.accounts import list_emails

    with stored_domain(data_dir, database_url) as (folder, database):
        path = head or folder / audit.HEAD_FILE
        known = audit.read_head(path) if head is not None or path.exists() else None
        fault = database.read_now(lambda connection: audit.verify(connection, known))
        newest = database.read_now(audit.get_head)
        mismatch = database.read_now(charges.find_mismatch)
        payer = None if mismatch is None else database.read_now(partial(list_emails, user_ids=[mismatch[1]]))
        altered = None if fault is not None else database.read_now(budget_log.find_altered)
    if fault is not None:
        say(f"BROKEN at entry {fault.number}: {fault.reason}")
        raise typer.Exit(BROKEN)
    if mismatch is not None and payer is not None:
        say(f"BROKEN: the total that {payer[mismatch[1]]} spent of dataset {mismatch[0]} is not the sum of the charges")
        raise typer.Exit(BROKEN)
    if altered is not None:
        say(f"BROKEN: {altered}")
        raise typer.Exit(BROKEN)
    say(f"{newest.number} entries, all unmodified; the hash of the newest is {newest.hash}")
    if known is None:
        say(f"There is no exported head to compare with ({path}), so rewriting the whole log would go unnoticed.")
    else:
        say(f"The chain contains entry {known.number}, whose head is in {path}.")


@app.command("show")
def show(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    last: Annotated[int, typer.Option(min=1, metavar="N", help="Number of entries.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the newest entries of the audit log, oldest first.

    Example: pygrid audit show --last 50
    """
    from pygrid.cli.tables import AuditRow, AuditTable
    from pygrid.storage import audit
    from pygrid.storage.accounts import list_emails

    with stored_domain(data_dir, database_url) as (_, database):
        newest = database.read_now(audit.get_head).number
        entries = database.read_now(lambda connection: audit.list_entries(connection, after=newest - last, limit=last))
        actors = {entry.actor for entry in entries if entry.actor is not None}
        emails = database.read_now(lambda connection: list_emails(connection, actors))
    if as_json:
        say_json(entries)
        return
    table = AuditTable()
    for entry in entries:
        actor = "the Domain" if entry.actor is None else emails[entry.actor]
        table.append(AuditRow(entry.number, entry.at, actor, entry.action, entry.data))
    say_table(table, "the audit log is empty")
