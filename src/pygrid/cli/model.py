"""``pygrid model``: download what training has made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.friendly import UrlOption, friendly

app = typer.Typer(help="Download models and list their checkpoints.", no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help="Name of the process.")]
Version = Annotated[str | None, typer.Option(help="Version of the process; default: the newest.")]


@app.command("download")
@friendly
def download(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the safetensors file.")],
    checkpoint: Annotated[str, typer.Option(help="Number of a checkpoint, or: latest.")] = "latest",
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Download a model as it is now, or as it was at a checkpoint.

    Example: pygrid model download digits --checkpoint latest -o digits.safetensors
    """
    from pygrid.client import connect

    with connect(url) as domain:
        params = domain.process(name, version).download(checkpoint, path=output)
    num = sum(array.size for array in params.values())
    print(f"{output}: {len(params)} arrays, {num:,} parameters, {output.stat().st_size:,} bytes")


@app.command("checkpoints")
@friendly
def checkpoints(name: Name, version: Version = None, url: UrlOption = None) -> None:
    """List the checkpoints of a model, oldest first; number 1 is the model that was hosted.

    Example: pygrid model checkpoints digits
    """
    from pygrid.client import connect

    with connect(url) as domain:
        for one in domain.process(name, version).checkpoints():
            made = f"{one.created_at:%Y-%m-%d %H:%M:%S}"
            print(f"{one.number:>5}  {made}  {one.size_bytes:>12,} bytes  {one.model_hash}  {one.alias}".rstrip())
