"""``pygrid search``: find datasets, models and processes on all Domains of a Network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import JsonOption, NetworkOption, connect_network
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_table
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.client.display.tables import Table
    from pygrid.client.search import SearchResults

app = App()

_KINDS = ("dataset", "model", "process")


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="Words that all occur in its name, description, tags or columns.")] = "",
    network: NetworkOption = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="Tag that it has; repeatable.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column that a dataset has: NAME, NAME:DTYPE or :DTYPE.")
    ] = None,
    meaning: Annotated[str | None, typer.Option(metavar="TEXT", help="Part of the meaning of that column.")] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="Id of a model.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Kind of results: dataset, model or process; repeatable.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.01, max=10, metavar="SECONDS", help="Time after which late Domains are left out.")
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Find datasets, models and processes on all Domains of a Network. No account is needed.

    Example: pygrid search "age income" --network http://127.0.0.1:7000
    """
    kinds: Any = tuple(kind or ())
    if unknown := [one for one in kinds if one not in _KINDS]:
        raise InvalidInput(f"--kind {unknown[0]}: use one of {', '.join(_KINDS)}")
    name, _, dtype = (column or "").partition(":")
    wanted: dict[str, Any] = {"column": name or None, "dtype": dtype or None, "meaning": meaning, "model": model}
    with connect_network(network) as client:
        found = client.search(text, tags=tag or (), kinds=kinds, timeout_s=timeout_s, **wanted)
        _print_json(found) if as_json else _print_tables(found)


def _print_json(found: SearchResults) -> None:
    tables: dict[str, Any] = {"datasets": found.datasets, "models": found.models, "processes": found.processes}
    content: dict[str, Any] = {name: [item.info for item in items] for name, items in tables.items()}
    content |= {"missing": found.missing, "num_domains": found.num_domains, "more": found.more}
    say_json(content)


def _print_tables(found: SearchResults) -> None:
    shown: list[Table[Any]] = [table for table in (found.datasets, found.models, found.processes) if table]
    for table in shown:
        say_table(table)
        say()
    for remark in found.remarks():
        say(remark)
