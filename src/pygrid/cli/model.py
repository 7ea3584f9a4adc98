"""``pygrid model``: download checkpoints; serve models and predict with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli.common import JsonOption, UrlOption, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_table
from pygrid.cli.serving_options import (
    AllowDownloadOption,
    AllowInferenceOption,
    BatchSizeOption,
    CheckpointOption,
    DescriptionOption,
    PublicOption,
)

app = App("Download checkpoints; serve models and predict with them.\n\nExample: pygrid model served")

Name = Annotated[str, typer.Argument(help="Name of the process.")]
Version = Annotated[str | None, typer.Option(metavar="TEXT", help="Version of the process; default: the newest.")]


@app.command("download")
def download(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Safetensors file to write.")],
    checkpoint: CheckpointOption = "latest",
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Download the newest or an earlier checkpoint of a model.

    Example: pygrid model download digits -o digits.safetensors
    """
    with connect(url) as domain:
        params = domain.process(name, version).download(checkpoint, path=output)
    num = sum(array.size for array in params.values())
    say(f"{output}: {len(params)} arrays, {num:,} parameters, {output.stat().st_size:,} bytes")


@app.command("load")
def load(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Process, or a safetensors file of weights.")],
    model: Annotated[
        str, typer.Option(metavar="MODULE:FACTORY", help="Class or function without arguments that makes the model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="File to write, .pt or .safetensors.")],
    checkpoint: CheckpointOption = "latest",
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Write the weights as a state_dict that model.load_state_dict reads.

    The file has all names of the model, also of shared weights and of counters. A .pt file is for torch.load.

    Example: pygrid model load digits --model tasks.py:Net -o digits.pt
    """
    from pygrid.cli.plan_build import load_object
    from pygrid.plans.authoring import load_into, make_model
    from pygrid.plans.authoring.loading import save_state

    net = make_model(load_object(model), seed=0)
    if name.endswith(".safetensors"):
        load_into(net, name)
    else:
        with connect(url) as domain:
            domain.process(name, version).load_into(net, checkpoint)
    num = save_state(net, output)
    say(f"{output}: {num} arrays, {output.stat().st_size:,} bytes")


@app.command("checkpoints")
def checkpoints(name: Name, version: Version = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the checkpoints of a model, oldest first; number 1 is the hosted model.

    Example: pygrid model checkpoints digits
    """
    with connect(url) as domain:
        found = domain.process(name, version).checkpoints()
    say_json(found) if as_json else say_table(found, f"{name} has no checkpoint")


@app.command("serve")
def serve(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the served model.")],
    model: Annotated[Path, typer.Argument(metavar="PATH", help="ONNX file.")],
    allow_inference: AllowInferenceOption = False,
    allow_download: AllowDownloadOption = False,
    description: DescriptionOption = "",
    max_batch_size: BatchSizeOption = 64,
    public: PublicOption = False,
    url: UrlOption = None,
) -> None:
    """Serve an ONNX model on a Domain for predictions.

    Example: pygrid model serve digits digits.onnx --allow-inference
    """
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
def served(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the models that a Domain serves.

    Example: pygrid model served
    """
    with connect(url) as domain:
        found = domain.models()
        empty = f"{domain.url} serves no model"
    say_json(found) if as_json else say_table(found, empty)


@app.command("predict")
def predict(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the served model.")],
    data: Annotated[Path, typer.Argument(metavar="PATH", help="NPZ or safetensors file with an array for each input.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Safetensors file for the outputs.")],
    url: UrlOption = None,
) -> None:
    """Predict with a served model.

    Example: pygrid model predict digits images.npz -o scores.safetensors
    """
    from pygrid.edge import load_data
    from pygrid.tensors import encode

    arrays = load_data(data)
    with connect(url) as domain:
        outputs = domain.model(model_id).predict(arrays)
    output.write_bytes(encode(outputs))
    for name, array in outputs.items():
        say(f"{name}: {array.dtype} {list(array.shape)}")


@app.command("withdraw")
def withdraw(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the served model.")], url: UrlOption = None
) -> None:
    """Stop serving a model and remove it from the Domain.

    Example: pygrid model withdraw digits
    """
    with connect(url) as domain:
        domain.model(model_id).delete()
    say(f"{model_id} is no longer served")
