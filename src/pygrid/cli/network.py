"""``pygrid network``: run a Network until a signal stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pygrid.cli import serve as serving
from pygrid.cli.help import App
from pygrid.settings import NetworkSettings, load_network_settings, with_secret

app = App()


@app.command(is_server=True)
@serving.with_setting_options(NetworkSettings)
def network(
    start_local_db: serving.LocalDbOption = False, port_file: serving.PortFileOption = None, **given: Any
) -> None:
    """Start a Network, which Domains join, and run it until Ctrl-C or SIGTERM.

    By default it listens on this machine only, and all data is in ./pygrid-network-data.

    Example: pygrid network --port 7000
    """
    with serving.reporting(given):
        serve(with_secret(load_network_settings(serving.environment(start_local_db), **given)), port_file)


def serve(settings: NetworkSettings, port_file: Path | None) -> None:
    """Run a Network in this process until a signal ends it (`pygrid.cli.serve.serve`)."""
    with serving.loading():
        from pygrid.network import build_network
        from pygrid.storage.start import prepare_store

    def prepare() -> Callable[[int], str]:
        has_owner = prepare_store(settings)
        return lambda port: banner(settings, port, has_owner)

    serving.serve(settings, port_file, prepare, lambda lock: build_network(settings, folder_lock=lock))


def banner(settings: NetworkSettings, port: int, has_owner: bool) -> str:
    """The lines that the operator sees when the Network is ready."""
    address = serving.shown_address(settings, port)
    reach = "this machine only" if settings.is_loopback else f"every machine that reaches {settings.host}"
    lines = [
        f"Network {settings.id} is ready.",
        f"  address      {address}  ({reach})",
        f"  console      {serving.console_address(settings, address)}",
        f"  data folder  {settings.data_dir.resolve()}",
        f"  sign-up      {'open' if settings.open_signup else 'closed; Owners and Administrators create accounts'}",
        f"  relay        {'open to everybody' if settings.open_relay else 'for accounts and Domains of this Network'}",
    ]
    if settings.legacy_open:
        lines.append("  legacy open  nodes join and leave without an account")
    if not has_owner:
        lines += serving.first_steps(settings, address)
    lines.append(f"A Domain joins with: pygrid domain --network {address}")
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)
