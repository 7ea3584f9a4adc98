"""``pygrid doctor``: try what an app needs from other services."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import JsonOption
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_table

app = App("Try what a Domain needs from other services.\n\nExample: pygrid doctor store")


@app.callback()
def doctor() -> None:
    """Try what a Domain needs from other services."""


@app.command("store")
def store(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="s3://BUCKET/PREFIX; default: PYGRID_STORE.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Try each function of a bucket that a Domain needs; the exit code is 1 if one is missing.

    It writes and removes small objects below probe/.

    Example: pygrid doctor store s3://hospital/pygrid
    """
    import os

    from pygrid.cli.tables import PlainTable
    from pygrid.settings import load_settings
    from pygrid.storage.blobs.s3 import S3Address, open_bucket
    from pygrid.storage.blobs.store_check import probe_store

    env = dict(os.environ)
    url = url or env.get("PYGRID_STORE", "")
    env.pop("PYGRID_STORE", None)
    settings = load_settings(env)
    address = S3Address(url, settings.s3_endpoint, settings.s3_region, settings.s3_path_style, settings.s3_sse)
    with tempfile.TemporaryDirectory() as folder:
        found = probe_store(open_bucket(address), Path(folder) / "large")
    is_fit = not any(reason for _, reason in found)
    if as_json:
        say_json({"store": url, "is_fit": is_fit, "checks": [{"name": n, "reason": r} for n, r in found]})
    else:
        say_table(PlainTable(("check", "result"), [(name, reason or "ok") for name, reason in found]))
        say(f"{url} is fit for a Domain." if is_fit else f"{url} is not fit for a Domain.")
    if not is_fit:
        raise typer.Exit(1)
