"""``pygrid network``: run a Network until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli import serve as serving
from pygrid.settings import NetworkSettings, load_network_settings, with_secret

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

_option = partial(serving.option, NetworkSettings)


@app.command()
def network(
    id: Annotated[str | None, _option("id")] = None,
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port", "--port", "-p")] = None,
    data_dir: Annotated[Path | None, _option("data_dir")] = None,
    database_url: Annotated[str | None, _option("database_url")] = None,
    start_local_db: Annotated[
        bool,
        typer.Option(
            "--start-local-db", "--start_local_db", help="Use SQLite in the data folder, whatever DATABASE_URL is."
        ),
    ] = False,
    num_replicas: Annotated[int | None, _option("num_replicas", "--num-replicas", "--num_replicas")] = None,
    open_signup: Annotated[bool | None, _option("open_signup")] = None,
    legacy_open: Annotated[bool | None, _option("legacy_open")] = None,
    open_relay: Annotated[bool | None, _option("open_relay")] = None,
    allow_private_addresses: Annotated[bool | None, _option("allow_private_addresses")] = None,
    address: Annotated[str | None, _option("address")] = None,
    hosts: Annotated[str | None, _option("hosts")] = None,
    heartbeat_s: Annotated[int | None, _option("heartbeat_s")] = None,
    max_connections: Annotated[int | None, _option("max_connections")] = None,
    max_connections_per_address: Annotated[int | None, _option("max_connections_per_address")] = None,
    trusted_proxies: Annotated[str | None, _option("trusted_proxies")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
    access_log: Annotated[bool | None, _option("access_log")] = None,
    shutdown_s: Annotated[int | None, _option("shutdown_s")] = None,
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port to this file once the Network is ready.")
    ] = None,
) -> None:
    """Start a Network, which Domains join, and run it until Ctrl-C or SIGTERM.

    Without options it listens on this machine only, port 7000, and keeps everything in ./pygrid-network-data:

        pygrid network --port 7000
    """
    given = dict(locals())
    del given["port_file"], given["start_local_db"]
    serve(with_secret(load_network_settings(serving.environment(start_local_db), **given)), port_file)


def serve(settings: NetworkSettings, port_file: Path | None) -> None:
    """Run a Network in this process until a signal ends it (`pygrid.cli.serve.serve`)."""
    from pygrid.network import build_network
    from pygrid.storage.start import prepare_store

    def prepare() -> Callable[[int], str]:
        has_owner = prepare_store(settings)
        return lambda port: banner(settings, port, has_owner)

    serving.serve(settings, port_file, prepare, lambda lock: build_network(settings, folder_lock=lock))


def banner(settings: NetworkSettings, port: int, has_owner: bool) -> str:
    """What the operator sees when the Network is ready."""
    address = serving.shown_address(settings, port)
    reach = "this machine only" if settings.is_loopback else f"every machine that reaches {settings.host}"
    lines = [
        f"Network {settings.id} is ready.",
        f"  address      {address}  ({reach})",
        f"  data folder  {settings.data_dir.resolve()}",
        f"  sign-up      {'open' if settings.open_signup else 'by those who run it'}",
        f"  relay        {'open to everybody' if settings.open_relay else 'for accounts and Domains of this Network'}",
    ]
    if settings.legacy_open:
        lines.append("  legacy open  nodes join and leave without an account")
    if not has_owner:
        lines += serving.first_steps(settings, address)
    lines.append(f"A Domain joins with: pygrid domain --network {address}")
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)
