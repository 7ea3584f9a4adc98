"""``pygrid worker``: run jobs of a Domain on this machine, authorize Workers, check the sandbox."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pygrid import codes
from pygrid.cli.common import JsonOption, UrlOption, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_lines, say_table
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from pygrid.sandbox.probes import Examination
    from pygrid.worker import RemoteSettings

logger = logging.getLogger(__name__)

app = App()

TOKEN_VARIABLE = "PYGRID_WORKER_TOKEN"
START_TOKEN_VARIABLE = "PYGRID_START_TOKEN"


@app.callback(invoke_without_command=True)
def worker(
    context: typer.Context,
    domain: Annotated[str | None, typer.Option(metavar="URL", help="Address of the Domain.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help=f"File with the token; default: {TOKEN_VARIABLE}. With --once it is removed."
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help=f"Run the one job of a start token; default: {START_TOKEN_VARIABLE}.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Jobs that run at the same time.")] = 1,
    num_threads: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Threads of each job.")] = 1,
    cache_dir: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Cache for the files of jobs, which include records of datasets."),
    ] = None,
    cache_bytes: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Bytes that are kept between jobs; 0: nothing stays on this machine."),
    ] = 10 * 1024**3,
    allow_weak_sandbox: Annotated[
        bool,
        typer.Option("--allow-weak-sandbox", help="Run untrusted plans even without a complete sandbox; see doctor."),
    ] = False,
) -> None:
    """Run jobs of a Domain on this machine, until Ctrl-C or SIGTERM.

    The Worker opens no port; it polls the Domain for jobs. The Owner of the Domain creates the token with
    `pygrid worker token NAME`. Jobs come from datasets whose policy allows remote Workers.

    With --once, an engine has started the Worker: it runs one job, and keeps no file. Exit code 0: the Domain has the
    result; 4: no job for the token; 5: this machine cannot sandbox a plan; 6: the job was lost.

    Example: pygrid worker --domain https://domain.example --token-file token
    """
    if context.invoked_subcommand is not None:
        return
    if domain is None:
        say_lines(context.get_help())
        raise typer.Exit(2)
    from pygrid.worker import RemoteSettings

    settings = RemoteSettings(jobs, num_threads, allow_weak_sandbox)
    if once:
        raise typer.Exit(_work_once(domain, token_file, settings))
    _work(domain, _read_token(token_file), cache_dir or _default_cache_dir(), cache_bytes, settings)


def _work(domain: str, token: str, cache_dir: Path, cache_bytes: int, settings: RemoteSettings) -> None:
    import asyncio
    import signal

    from pygrid.client.credentials import find_network_token
    from pygrid.compute.job_cache import JobCache
    from pygrid.logs import configure_logs
    from pygrid.transport import open_transport
    from pygrid.worker import RemoteWorker

    log_format = _log_format()
    configure_logs(log_format=log_format)

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await RemoteWorker(transport, token, files, settings).run()

    transport = open_transport(domain, relay_token=find_network_token)
    files = JobCache(cache_dir, cache_bytes)
    if log_format == "json":
        logger.info("Worker started", extra={"domain": transport.url, "num_jobs": settings.num_jobs})
    else:
        say(f"works for {transport.url}, {settings.num_jobs} at once; files of jobs are kept in {cache_dir}")
    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        logger.info("Worker stopped") if log_format == "json" else say("stopped")
    finally:
        files.close()
        transport.close()


def _work_once(domain: str, token_file: Path | None, settings: RemoteSettings) -> int:
    from pygrid.logs import configure_logs
    from pygrid.worker import run_once, take_token

    configure_logs(log_format=_log_format())
    token = take_token(token_file, os.environ)
    return run_once(domain, token, settings)


def _log_format() -> Literal["text", "json"]:
    return "json" if os.environ.get("PYGRID_LOG_FORMAT") == "json" else "text"


def _read_token(file: Path | None) -> str:
    token = file.read_text().strip() if file is not None else os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise InvalidInput(
            f"no token: set {TOKEN_VARIABLE}, or name a file with --token-file. The Owner of the Domain makes one "
            "with: pygrid worker token NAME",
            code=codes.WORKER_TOKEN_MISSING,
        )
    return token


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pygrid-worker"


@app.command("token")
def make_token(
    name: Annotated[str, typer.Argument(help="Name of the Worker; one for each machine.")], url: UrlOption = None
) -> None:
    """Authorize a Worker of another machine and print its token, which is not shown again. Owners only.

    Example: pygrid worker token worker-1 > token
    """
    with connect(url) as domain:
        new = domain.workers.let_in(name)
        address = domain.url
    say(new.token)
    say(
        f"Worker {new.name!r} is authorized. On its machine: pygrid worker --domain {address} --token-file FILE",
        err=True,
    )


@app.command("list")
def list_workers(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the authorized Workers of other machines with their jobs. Owners only.

    Example: pygrid worker list
    """
    with connect(url) as domain:
        found = domain.workers()
    say_json(found) if as_json else say_table(found, "no Worker of another machine is authorized")


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="Name of the Worker.")], url: UrlOption = None) -> None:
    """Revoke a Worker. Its token is no longer valid, and it loses its running jobs. Owners only.

    Example: pygrid worker revoke worker-1
    """
    with connect(url) as domain:
        domain.workers.revoke(name)
    say(f"Worker {name!r} is revoked")


@app.command("doctor")
def doctor(as_json: JsonOption = False) -> None:
    """Check the sandbox with test processes that try to break out. Exit code 1 if untrusted plans would be refused.

    Example: pygrid worker doctor
    """
    import dataclasses

    from pygrid.sandbox.probes import examine

    examination, reading = examine(), examine(writes=True)
    if as_json:
        answer = dataclasses.asdict(examination) | {"sound": examination.sound}
        answer["uploads"] = dataclasses.asdict(reading) | {"sound": reading.sound}
        say_json(answer)
    else:
        _print(examination)
        say(_meaning_for_uploads(reading))
    if not examination.sound:
        raise typer.Exit(1)


def _print(examination: Examination) -> None:
    from pygrid.cli.tables import PlainTable

    layers = examination.layers
    if layers is None:
        say(f"The sandbox could not be set up: {examination.trouble}")
    else:
        landlock = f"yes, version {layers.landlock_abi}" if layers.landlock_abi else "no"
        layer_rows = [
            ("namespaces", _yes(layers.namespaces), "the network, shared memory, the host's name"),
            ("empty root", _yes(layers.empty_root), "every file, by name"),
            ("not root", _yes(layers.not_root), "the privileges of root"),
            ("rlimits", "yes", "memory, CPU time and processes beyond the limits"),
            ("Landlock", landlock, "every file and TCP, by any call"),
            ("seccomp", _yes(layers.seccomp), "every system call that computing does not need"),
        ]
        say_table(PlainTable(("layer", "holds", "removes access to"), layer_rows))
        say()
        outcomes = [
            (probe.name, "ALLOWED" if probe.allowed else f"refused: {probe.detail}") for probe in examination.findings
        ]
        say_table(PlainTable(("attempt from inside", "outcome"), outcomes))
    say()
    say(_meaning(examination))


def _meaning(examination: Examination) -> str:
    if examination.sound:
        return "Untrusted plans can run here: they can access only the data that they are given."
    layers = examination.layers
    escaped = [finding.name for finding in examination.findings if finding.allowed]
    missing = []
    if layers is None or not layers.seccomp:
        missing.append("seccomp is missing (the kernel must be built with it, and the machine be x86_64 or aarch64)")
    if layers is None or not (layers.landlock_abi or layers.empty_root):
        missing.append("Landlock (Linux 5.13) and user namespaces are both missing (a container may withhold them)")
    if escaped:
        missing.append(f"these attempts succeeded: {', '.join(escaped)}")
    return f"Untrusted plans are refused here, unless the operator allows a weak sandbox: {'; '.join(missing)}."


def _meaning_for_uploads(reading: Examination) -> str:
    if reading.sound:
        return "Uploaded files can be read here: the reader can write to one folder, and access nothing else."
    escaped = (
        ", ".join(finding.name for finding in reading.findings if finding.allowed) or reading.trouble or "too little"
    )
    return (
        "Uploaded files, and plans before they run, are read here nevertheless: the reader has limits on memory and "
        f"time, but no working sandbox ({escaped})."
    )


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
