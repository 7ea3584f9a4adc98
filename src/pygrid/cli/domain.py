"""``pygrid domain``: run a Domain until it is told to stop."""

from __future__ import annotations

import dataclasses
import gc
import os
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from pygrid.errors import InvalidConfig
from pygrid.settings import DomainSettings, load_settings, with_secret

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

_META = {field.name: field.metadata for field in dataclasses.fields(DomainSettings)}
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


def _option(name: str, *flags: str, **kwargs: Any) -> Any:
    meta = _META[name]
    return typer.Option(*(flags or (meta["flag"],)), help=f"{meta['help']} ({meta['env']})", show_default=False, **kwargs)


@app.command()
def domain(
    id: Annotated[str | None, _option("id")] = None,
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port", "--port", "-p")] = None,
    data_dir: Annotated[Path | None, _option("data_dir")] = None,
    database_url: Annotated[str | None, _option("database_url")] = None,
    start_local_db: Annotated[
        bool,
        typer.Option("--start-local-db", "--start_local_db", help="Use SQLite in the data folder, whatever DATABASE_URL is."),
    ] = False,
    network: Annotated[str | None, _option("network")] = None,
    num_replicas: Annotated[int | None, _option("num_replicas", "--num-replicas", "--num_replicas")] = None,
    open_signup: Annotated[bool | None, _option("open_signup")] = None,
    legacy_open: Annotated[bool | None, _option("legacy_open")] = None,
    num_workers: Annotated[int | None, _option("num_workers")] = None,
    job_memory_mb: Annotated[int | None, _option("job_memory_mb")] = None,
    job_wall_s: Annotated[int | None, _option("job_wall_s")] = None,
    allow_weak_sandbox: Annotated[bool | None, _option("allow_weak_sandbox")] = None,
    prefer_remote_workers: Annotated[bool | None, _option("prefer_remote_workers")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
    access_log: Annotated[bool | None, _option("access_log")] = None,
    shutdown_s: Annotated[int | None, _option("shutdown_s")] = None,
    port_file: Annotated[Path | None, typer.Option(help="Write the port to this file once the Domain is ready.")] = None,
) -> None:
    """Start a Domain and run it until Ctrl-C or SIGTERM.

    Without options it listens on this machine only, port 5000, and keeps everything in ./pygrid-data:

        pygrid domain --id bob --port 5000
    """
    given = dict(locals())
    del given["port_file"], given["start_local_db"]
    env = dict(os.environ)
    if start_local_db:
        env.pop("DATABASE_URL", None)
    settings = with_secret(load_settings(env, **given))
    # Read by numpy when it is first imported: its threads would only get in each other's way here.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    serve(settings, port_file)


def serve(settings: DomainSettings, port_file: Path | None) -> None:
    """Run a Domain in this process until a signal ends it.

    Raises:
        InvalidConfig: the address is taken or not of this machine. Unavailable: the database does not answer.
    """
    from pygrid.cli.memory import limit_fragmentation
    from pygrid.cli.server import AppServer
    from pygrid.domain import build_domain, prepare_store
    from pygrid.logs import configure_logs

    limit_fragmentation()
    configure_logs(settings.log_level, settings.log_format, access=settings.access_log)
    listening = _listen(settings)
    has_owner = prepare_store(settings)
    app = build_domain(settings)

    def announce() -> None:
        port = listening.getsockname()[1]
        if port_file is not None:
            partly = port_file.with_name(port_file.name + ".part")
            partly.write_text(f"{port}\n")
            partly.replace(port_file)
        print(banner(settings, port, has_owner), flush=True)
        # What is loaded by now stays; the garbage collector need not look at it again and again.
        gc.freeze()

    AppServer(app, settings.shutdown_s, _KEEP_ALIVE_S, announce).run(sockets=[listening])


def _listen(settings: DomainSettings) -> socket.socket:
    """A socket bound to the address; port 0 has become a real one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidConfig(f"--host {settings.host}: {error.strerror}", code="invalid_address") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        # Connections made before the app is ready wait here, and are answered once it is.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise InvalidConfig(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}. "
            "If another Domain runs there, stop it or use another --port; --port 0 picks a free one.",
            code="address_in_use",
        ) from error
    return listening


def banner(settings: DomainSettings, port: int, has_owner: bool) -> str:
    """What the operator sees when the Domain is ready."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    address = f"http://{shown}:{port}"
    reach = "this machine only" if settings.is_loopback else f"every machine that reaches {settings.host}"
    lines = [
        f"Domain {settings.id} is ready.",
        f"  address      {address}  ({reach})",
        f"  data folder  {settings.data_dir.resolve()}",
        f"  sign-up      {'open' if settings.open_signup else 'by those who run it'}",
    ]
    if settings.network:
        lines.append(f"  network      {settings.network}  (kept as its address; nothing is sent there)")
    if settings.legacy_open:
        lines.append("  legacy open  hosting and downloads need no account")
    if not has_owner:
        lines += [
            "The first account becomes its Owner. Make it now:",
            f"  pygrid login {address} --sign-up --email you@example.org",
        ]
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)
