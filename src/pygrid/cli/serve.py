"""Runs a Domain or a Network as a server."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin, get_type_hints

import typer
from litestar import Litestar

from pygrid import codes
from pygrid.cli.output import say_lines
from pygrid.errors import InvalidConfig, PygridError
from pygrid.settings import PANELS, AppSettings

if TYPE_CHECKING:
    from pygrid.storage.ownership import FolderLock

logger = logging.getLogger(__name__)

_BACKLOG = 2048
MAX_OPEN_FILES = 65_536


LocalDbOption = Annotated[
    bool,
    typer.Option(
        "--start-local-db",
        "--start_local_db",
        help="Use SQLite in the data folder and ignore DATABASE_URL.",
        rich_help_panel="Storage",
    ),
]
PortFileOption = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="File for the port, written when the app is ready.", rich_help_panel=PANELS[0]),
]


def with_setting_options(settings: type[AppSettings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command's ``**given`` becomes one option for each setting that has a flag, sorted by panel."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        options = [_option(settings, field) for field in dataclasses.fields(settings) if field.metadata["flag"]]
        kind = inspect.Parameter.KEYWORD_ONLY
        options += [option.replace(kind=kind) for option in own if option.kind is not inspect.Parameter.VAR_KEYWORD]
        options.sort(key=lambda option: PANELS.index(option.annotation.__metadata__[0].rich_help_panel))
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return command

    return decorate


def _option(settings: type[AppSettings], field: dataclasses.Field[Any]) -> inspect.Parameter:
    """The command-line option of a setting; None means that the option is not given."""
    kind, metadata = get_type_hints(settings)[field.name], field.metadata
    if get_origin(kind) is Literal:
        kind = str
    if kind is int:
        metavar = "SECONDS" if field.name.endswith("_s") else "N"
    else:
        metavar = "PATH" if kind is Path else metadata["metavar"]
    default = "" if isinstance(field.default, bool | None) or field.default == "" else f"; default: {field.default}"
    option = typer.Option(
        metadata["flag"],
        *metadata["more_flags"],
        metavar=metavar or None,
        help=f"{metadata['help']} [{metadata['env']}{default}]",
        rich_help_panel=metadata["panel"],
        show_default=False,
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def environment(start_local_db: bool) -> dict[str, str]:
    """The environment for the settings, without DATABASE_URL if ``start_local_db``."""
    # numpy reads these at its import. In a server its threads would compete with each other.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    env = dict(os.environ)
    if start_local_db:
        env.pop("DATABASE_URL", None)
    return env


def shown_address(settings: AppSettings, port: int) -> str:
    """The address of the app for people on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def console_address(settings: AppSettings, address: str) -> str:
    """The address of the web console, for people on this machine."""
    return f"{address}/admin/" if settings.admin else "off (--no-admin)"


def first_steps(settings: AppSettings, address: str) -> list[str]:
    """The lines that show how to create the first account, with the setup code where one is needed."""
    from pygrid.storage.setup_code import find_setup_code

    setup_code = find_setup_code(settings)
    command = f"  pygrid login {address} --sign-up --email you@example.org"
    in_browser = f"Or in a browser: {address}/admin/setup"
    if setup_code is None:
        return [
            "The first account becomes its Owner. Create it now:",
            command,
            *([in_browser] if settings.admin else []),
        ]
    if settings.setup_code:
        return [
            "The first account becomes its Owner, and needs the code in PYGRID_SETUP_CODE:",
            f"{command} --setup-code CODE",
        ]
    return [
        "The first account becomes its Owner, and needs this setup code, which can be used once:",
        f"{command} --setup-code {setup_code.read()}",
        *([f"{in_browser}?code={setup_code.read()}"] if settings.admin else []),
    ]


def serve(
    settings: AppSettings,
    port_file: Path | None,
    prepare: Callable[[], Callable[[int], str]],
    build: Callable[[FolderLock], Litestar],
) -> None:
    """Run an app in this process until a signal ends it.

    Args:
        port_file: the file for the port, written when the app is ready.
        prepare: migrates the store; returns a function from the port to the lines that the operator sees.
        build: makes the app, which releases the lock of the data folder when it ends.
    Raises:
        InvalidConfig: ``already_running``: another app uses the data folder; or the address is taken, or does not
            belong to this machine.
        Unavailable: the database does not answer.
    """
    from pygrid.durable import write_atomically
    from pygrid.logs import configure_logs
    from pygrid.storage.ownership import FolderLock
    from pygrid.web.allocator import limit_fragmentation
    from pygrid.web.connections import ConnectionLimits
    from pygrid.web.server import AppServer

    limit_fragmentation()
    allow_open_files()
    configure_logs(settings.log_level, settings.log_format, access=settings.access_log)
    folder_lock = FolderLock.acquire(settings.data_dir, settings.app)
    listening = _listen(settings)
    folder_lock.announce(shown_address(settings, listening.getsockname()[1]))
    banner = prepare()
    app = build(folder_lock)

    def announce() -> None:
        port = listening.getsockname()[1]
        if port_file is not None:
            write_atomically(port_file, f"{port}\n".encode(), mode=0o666, sync=False)
        if settings.log_format == "json":
            _log_start(settings, shown_address(settings, port))
        else:
            say_lines(banner(port))
        # All that is loaded now stays, so the garbage collector need not scan it again.
        gc.freeze()

    limits = ConnectionLimits.of(settings)
    AppServer(app, settings.shutdown_s, announce, limits, drain_s=settings.drain_s).run(sockets=[listening])


@contextmanager
def loading() -> Iterator[None]:
    """Import the modules of an app. They stay, so the garbage collector does not scan them: 0.2 s less per start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _log_start(settings: AppSettings, address: str) -> None:
    """Log what the banner shows; the setup code stays in its file."""
    from pygrid.storage.setup_code import find_setup_code

    code = find_setup_code(settings)
    where = {} if code is None else {"setup_code_file": str(code.path)}
    logger.info("app ready", extra={"app": settings.app, "address": address, **where})


@contextmanager
def reporting(given: Mapping[str, Any]) -> Iterator[None]:
    """If the log is JSON, log an error of the start as well, and exit with 1; else it is raised.

    Args:
        given: settings of the command line.
    """
    try:
        yield
    except PygridError as error:
        if (given.get("log_format") or os.environ.get("PYGRID_LOG_FORMAT")) != "json":
            raise
        from pygrid.logs import configure_logs

        configure_logs(log_format="json")
        logger.error("app not started", extra={"code": error.code, "reason": error.detail})
        raise typer.Exit(1) from error


def allow_open_files() -> None:
    """Raise the limit on open files and connections of this process to at most 65,536.

    The usual limit of 1,024 is too low for a Network with several hundred pipes. Sandboxed processes have limits of
    their own.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _listen(settings: AppSettings) -> socket.socket:
    """A socket that listens on the address; for port 0, on a free port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidConfig(f"--host {settings.host}: {error.strerror}", code=codes.INVALID_ADDRESS) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        # Connections that arrive before the app is ready wait in this backlog.
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        hint = "If another app runs there, stop it or use another --port; --port 0 picks a free one."
        if isinstance(error, PermissionError):
            hint = "Ports below 1024 need more rights: use another --port, and a reverse proxy in front of it."
        raise InvalidConfig(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}. {hint}",
            code=codes.ADDRESS_IN_USE,
        ) from error
    return listening
