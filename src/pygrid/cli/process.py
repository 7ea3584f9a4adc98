"""``pygrid process``: show, watch, finish, restore, export and serve hosted processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.common import JsonOption, UrlOption, YesOption, confirm, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_facts, say_json, say_table
from pygrid.cli.serving_options import (
    AllowDownloadOption,
    AllowInferenceOption,
    BatchSizeOption,
    CheckpointOption,
    DescriptionOption,
    PublicOption,
)
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.messages.processes import ProcessInfo

app = App("Show, watch, change, export and serve hosted processes.\n\nExample: pygrid process list")

Name = Annotated[str, typer.Argument(help="Name of the process.")]
Version = Annotated[str | None, typer.Option(metavar="TEXT", help="Version of the process; default: the newest.")]


@app.command("list")
def list_processes(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the processes of a Domain, newest first.

    Example: pygrid process list
    """
    with connect(url) as domain:
        found = domain.processes()
        empty = f"{domain.url} has no process; to host one, see: pygrid host --help"
    say_json(found) if as_json else say_table(found, empty)


@app.command("show")
def show(name: Name, version: Version = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a process with its configuration, plans and cycles.

    Example: pygrid process show digits
    """
    with connect(url) as domain:
        process = domain.process(name, version)
        info = process.info()
        if as_json:
            say_json(info)
            return
        say_facts(_facts(info))
        if cycles := process.cycles():
            say()
            say_table(cycles)


@app.command("cycles")
def cycles(
    name: Name,
    version: Version = None,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Show only cycles after number N.")] = 0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cycles of a process: reports, late devices and metrics, with their range over devices.

    Example: pygrid process cycles digits
    """
    with connect(url) as domain:
        found = domain.process(name, version).cycles(after)
    say_json(found) if as_json else say_table(found, f"{name} has no cycle after number {after}")


@app.command("watch")
def watch(
    name: Name,
    version: Version = None,
    url: UrlOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print a line for each change, also on a terminal.")] = False,
    evaluate: Annotated[
        Path | None,
        typer.Option("--evaluate", metavar="FILE", help="Held-out data on which each new checkpoint is evaluated."),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option("--stop-after", min=1, metavar="N", help="Finish after N evaluations without a smaller loss."),
    ] = None,
) -> None:
    """Follow a training until it ends. Ctrl-C stops the display, not the training.

    With --evaluate, the metrics of each new checkpoint are computed here and stored on the Domain.

    Example: pygrid process watch digits --evaluate held-out.npz --stop-after 5
    """
    from pygrid.edge import load_data

    if stop_after is not None and evaluate is None:
        raise InvalidInput("--stop-after needs --evaluate with held-out data")
    data = None if evaluate is None else load_data(evaluate)
    with connect(url) as domain:
        domain.process(name, version).watch(plain=plain or None, evaluate=data, stop_after=stop_after)


@app.command("follow")
def follow(
    name: Name,
    version: Version = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="CSV file with a row for each cycle.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Folder for event files of TensorBoard.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", metavar="URI", help="Address of an MLflow server or store.")
    ] = None,
    url: UrlOption = None,
) -> None:
    """Record the metrics of each cycle, and evaluations, in a file or tracker, until training ends.

    Each of them is recorded once. Started again, the command continues with the next cycle.

    Example: pygrid process follow digits --csv digits.csv
    """
    from pygrid.client.display.training_view import describe
    from pygrid.client.trackers import Source, open_trackers, record_cycles

    with connect(url) as domain:
        process = domain.process(name, version)
        trackers = open_trackers(Source(domain.url, process.info()), csv=csv, tensorboard=tensorboard, mlflow=mlflow)
        for cycle in record_cycles(process, trackers):
            say(describe(cycle))
    say("training is over")


@app.command("finish")
def finish(name: Name, version: Version = None, url: UrlOption = None) -> None:
    """Finish a training. Its open cycle is completed if it has reports.

    Example: pygrid process finish digits
    """
    with connect(url) as domain:
        info = domain.process(name, version).finish()
        say(f"{info.name} {info.version} is {info.state} after {info.num_checkpoints - 1} cycles")


@app.command("pause")
def pause(name: Name, version: Version = None, url: UrlOption = None) -> None:
    """Pause a training: no device is admitted, and admitted devices can report.

    Example: pygrid process pause digits
    """
    with connect(url) as domain:
        info = domain.process(name, version).pause()
        say(f"{info.name} {info.version} is {info.state}; to go on: pygrid process resume {info.name}")


@app.command("resume")
def resume(name: Name, version: Version = None, url: UrlOption = None) -> None:
    """Resume a paused training.

    Example: pygrid process resume digits
    """
    with connect(url) as domain:
        info = domain.process(name, version).resume()
        say(f"{info.name} {info.version} is {info.state}")


@app.command("delete")
def delete(name: Name, version: Version = None, yes: YesOption = False, url: UrlOption = None) -> None:
    """Finish a training, and delete the process with its plans, checkpoints and cycles.

    Example: pygrid process delete digits --version 1.0 --yes
    """
    with connect(url) as domain:
        process = domain.process(name, version)
        info = process.info()
        if not yes:
            what = f"{info.name} {info.version} with {info.num_checkpoints} checkpoints"
            confirm(f"Delete {what} permanently?")
        process.delete()
    say(f"{info.name} {info.version} is deleted")


@app.command("restore")
def restore(
    name: Name,
    checkpoint: Annotated[int, typer.Option(min=1, metavar="N", help="Number of the checkpoint to continue from.")],
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Continue from an earlier checkpoint, which is repeated as the newest one.

    Example: pygrid process restore digits --checkpoint 3
    """
    with connect(url) as domain:
        info = domain.process(name, version).restore(checkpoint)
        say(f"{info.name} {info.version} continues from checkpoint {info.num_checkpoints}, which repeats {checkpoint}")


@app.command("export")
def export(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="ONNX file to write.")],
    checkpoint: CheckpointOption = "latest",
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Write an ONNX file that predicts with the trained model. It needs no PyTorch.

    Example: pygrid process export digits -o digits.onnx
    """
    with connect(url) as domain:
        domain.process(name, version).export_onnx(output, checkpoint=checkpoint)
    say(f"{output}: {output.stat().st_size:,} bytes")


@app.command("serve")
def serve(
    name: Name,
    model_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the served model; default: NAME.")
    ] = None,
    checkpoint: CheckpointOption = "latest",
    version: Version = None,
    allow_inference: AllowInferenceOption = False,
    allow_download: AllowDownloadOption = False,
    description: DescriptionOption = "",
    max_batch_size: BatchSizeOption = 64,
    public: PublicOption = False,
    url: UrlOption = None,
) -> None:
    """Serve the trained model at its Domain for predictions.

    Example: pygrid process serve digits --allow-inference
    """
    with connect(url) as domain:
        served = domain.process(name, version).serve(
            model_id,
            checkpoint=checkpoint,
            allow_remote_inference=allow_inference,
            allow_download=allow_download,
            description=description,
            max_batch_size=max_batch_size,
            visibility="public" if public else "listed",
        )
    say(f"{served.id} is served: {served.info.num_parameters:,} parameters, {served.info.size_bytes:,} bytes")


def _facts(info: ProcessInfo) -> Iterator[tuple[str, object]]:
    from pygrid.client.display.process_tables import num_completed
    from pygrid.units import size

    yield "process", f"{info.name} {info.version}"
    yield "state", info.state
    yield "cycles", num_completed(info)
    yield "parameters", f"{info.num_parameters:,}"
    for plan in info.plans:
        yield "plan", f"{plan.name} ({plan.kind}), {size(plan.size_bytes)}, SHA-256 {plan.plan_hash}"
    yield "client_config", _lines(info.client_config)
    yield "server_config", _lines(info.server_config)


def _lines(config: Mapping[str, object]) -> str:
    """One key a line; values as JSON, as `pygrid host` reads them."""
    return "\n".join(f"{key}={json.dumps(value)}" for key, value in sorted(config.items()))
