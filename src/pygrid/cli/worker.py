"""``pygrid worker``: whether this machine can run strangers' plans safely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.friendly import friendly

if TYPE_CHECKING:
    from pygrid.features.execution.probes import Examination

app = typer.Typer(help="Look at what Workers of this machine are locked in by.", no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.callback()
def _worker() -> None:
    """Look at what Workers of this machine are locked in by."""


@app.command("doctor")
@friendly
def doctor(as_json: Json = False) -> None:
    """Close the sandbox around a trial process and try to break out of it. Exit code 1 if strangers' plans would be refused.

    Example: pygrid worker doctor
    """
    import dataclasses

    import msgspec

    from pygrid.features.execution.probes import examine

    examination = examine()
    if as_json:
        answer = dataclasses.asdict(examination) | {"sound": examination.sound}
        print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    else:
        _print(examination)
    if not examination.sound:
        raise typer.Exit(1)


def _print(examination: Examination) -> None:
    layers = examination.layers
    if layers is None:
        print(f"The sandbox could not be closed: {examination.trouble}")
    else:
        landlock = f"yes, version {layers.landlock_abi}" if layers.landlock_abi else "no"
        _columns(
            ("LAYER", "HOLDS", "WHAT IT TAKES AWAY"),
            ("namespaces", _yes(layers.namespaces), "the network, shared memory, the host's name"),
            ("empty root", _yes(layers.empty_root), "every file, by name"),
            ("not root", _yes(layers.not_root), "the rights of root"),
            ("rlimits", "yes", "memory, CPU time and processes beyond the limits"),
            ("Landlock", landlock, "every file and TCP, however asked for"),
            ("seccomp", _yes(layers.seccomp), "every system call but those that computing needs"),
        )
        print()
        _columns(
            ("TRIED FROM INSIDE", "OUTCOME"),
            *((probe.name, "ALLOWED" if probe.allowed else f"refused: {probe.detail}") for probe in examination.findings),
        )
    print()
    print(_meaning(examination))


def _meaning(examination: Examination) -> str:
    if examination.sound:
        return "Strangers' plans can be run here: they reach nothing but the data they are given."
    layers = examination.layers
    came_through = [finding.name for finding in examination.findings if finding.allowed]
    missing = []
    if layers is None or not layers.seccomp:
        missing.append("seccomp is missing (the kernel must be built with it, and the machine be x86_64 or aarch64)")
    if layers is None or not (layers.landlock_abi or layers.empty_root):
        missing.append("neither Landlock (Linux 5.13) nor user namespaces are there (a container may withhold both)")
    if came_through:
        missing.append(f"this came through: {', '.join(came_through)}")
    return f"Strangers' plans are refused here, unless the operator allows a weak sandbox: {'; '.join(missing)}."


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _columns(*rows: tuple[str, ...]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
