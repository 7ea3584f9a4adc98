"""``pygrid model``: download what training has made; serve models, and ask them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import UrlOption, friendly
from pygrid.cli.output import say

app = typer.Typer(
    help="Download models and list their checkpoints; serve models that answer questions, and ask them.",
    no_args_is_help=True,
    add_completion=False,
)

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
    say(f"{output}: {len(params)} arrays, {num:,} parameters, {output.stat().st_size:,} bytes")


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
            say(f"{one.number:>5}  {made}  {one.size_bytes:>12,} bytes  {one.model_hash}  {one.alias}".rstrip())


@app.command("serve")
@friendly
def serve(
    model_id: Annotated[str, typer.Argument(help="The id to serve it under.")],
    model: Annotated[Path, typer.Argument(help="The ONNX file.")],
    allow_inference: Annotated[bool, typer.Option("--allow-inference", help="Others may ask it.")] = False,
    allow_download: Annotated[bool, typer.Option("--allow-download", help="Others may take the file.")] = False,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    max_batch_size: Annotated[int, typer.Option(min=1, help="Examples of one question at most.")] = 64,
    public: Annotated[bool, typer.Option("--public", help="Strangers may know of it, and Networks find it.")] = False,
    url: UrlOption = None,
) -> None:
    """Serve an ONNX model at a Domain, where it answers questions.

    Example: pygrid model serve digits digits.onnx --allow-inference
    """
    from pygrid.client import connect

    with connect(url) as domain:
        served = domain.serve(
            model_id,
            model,
            allow_remote_inference=allow_inference,
            allow_download=allow_download,
            description=description,
            max_batch_size=max_batch_size,
            visibility="public" if public else "listed",
        )
    say(f"{served.id} is served: {served.info.num_parameters:,} parameters, {served.info.size_bytes:,} bytes")


@app.command("served")
@friendly
def served(url: UrlOption = None) -> None:
    """List the models that a Domain serves.

    Example: pygrid model served
    """
    from pygrid.client import connect

    with connect(url) as domain:
        for one in domain.models():
            allowed = [
                what for what, yes in (("ask", one.allow_remote_inference), ("download", one.allow_download)) if yes
            ]
            inputs = ", ".join(f"{port.name} {port.dtype}[{', '.join(map(str, port.shape))}]" for port in one.inputs)
            say(f"{one.id}  {inputs}  {one.size_bytes:,} bytes  others may: {' and '.join(allowed) or 'nothing'}")


@app.command("predict")
@friendly
def predict(
    model_id: Annotated[str, typer.Argument(help="Id of a model that is served.")],
    data: Annotated[Path, typer.Argument(help="A .npz or .safetensors file with arrays by the names of the inputs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the outputs, as safetensors.")],
    url: UrlOption = None,
) -> None:
    """Ask a model that is served.

    Example: pygrid model predict digits images.npz -o scores.safetensors
    """
    from pygrid.client import connect
    from pygrid.edge import load_data
    from pygrid.tensors import encode

    arrays = load_data(data)
    with connect(url) as domain:
        outputs = domain.model(model_id).predict(arrays)
    output.write_bytes(encode(outputs))
    for name, array in outputs.items():
        say(f"{name}: {array.dtype} {list(array.shape)}")


@app.command("withdraw")
@friendly
def withdraw(
    model_id: Annotated[str, typer.Argument(help="Id of a model that is served.")], url: UrlOption = None
) -> None:
    """Stop serving a model and remove it from the Domain.

    Example: pygrid model withdraw digits
    """
    from pygrid.client import connect

    with connect(url) as domain:
        domain.model(model_id).delete()
    say(f"{model_id} is not served any more")
