"""``pygrid host``: host a model for devices to train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import UrlOption, connect, read_settings
from pygrid.cli.help import App
from pygrid.cli.output import say

_SETTINGS = "key=value or a JSON file; repeatable."

app = App()


@app.command()
def host(
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the process.")],
    model: Annotated[Path, typer.Option(metavar="PATH", help="Model: a safetensors file of float32 arrays.")],
    plan: Annotated[list[str], typer.Option(metavar="[NAME=]PATH", help="Plan file; repeatable.")],
    version: Annotated[
        str, typer.Option(metavar="TEXT", help="Version of the process; name and version are unique on the Domain.")
    ] = "1.0",
    averaging_plan: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Plan file for averaging; default: the mean.")
    ] = None,
    client_config: Annotated[
        list[str] | None,
        typer.Option("--client-config", "-c", metavar="SETTING", help=f"Setting for devices: {_SETTINGS}"),
    ] = None,
    server_config: Annotated[
        list[str] | None,
        typer.Option("--server-config", "-s", metavar="SETTING", help=f"Setting for cycles: {_SETTINGS}"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the training until it ends.")] = False,
    url: UrlOption = None,
) -> None:
    """Host a model on a Domain, for devices to train.

    Example:
        pygrid host --name digits --model digits.safetensors --plan digits.plan \\
            -c lr=0.3 -s num_cycles=20 -s cycle_length=60 -s min_diffs=10
    """
    with connect(url) as domain:
        process = domain.host(
            name,
            version,
            model=model,
            plans=_named(plan),
            client_config=read_settings(client_config or []),
            server_config=read_settings(server_config or []),
            averaging_plan=averaging_plan,
        )
        say(f"{process.name} {process.version} is hosted on {domain.url}; devices can join:")
        say(f"  pygrid edge {domain.url} --model {process.name} --data FILE.npz")
        if watch:
            process.watch()


def _named(plans: list[str]) -> dict[str, str]:
    """Plans by name: ``NAME=FILE``, or a file alone, which is the ``training_plan``."""
    named: dict[str, str] = {}
    for item in plans:
        name, is_pair, file = item.partition("=")
        named[name if is_pair else "training_plan"] = file if is_pair else item
    return named
