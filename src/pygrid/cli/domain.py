"""``pygrid domain``: run a Domain until a signal stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pygrid.cli import serve as serving
from pygrid.cli.help import App
from pygrid.settings import DomainSettings, is_loopback_host, load_settings, with_secret

app = App()


@app.command(is_server=True)
@serving.with_setting_options(DomainSettings)
def domain(
    start_local_db: serving.LocalDbOption = False, port_file: serving.PortFileOption = None, **given: Any
) -> None:
    """Start a Domain and run it until Ctrl-C or SIGTERM.

    By default it listens on this machine only, and all data is in ./pygrid-data.

    Example: pygrid domain --id bob --port 5000
    """
    with serving.reporting(given):
        serve(with_secret(load_settings(serving.environment(start_local_db), **given)), port_file)


def serve(settings: DomainSettings, port_file: Path | None) -> None:
    """Run a Domain in this process until a signal ends it (`pygrid.cli.serve.serve`)."""
    with serving.loading():
        from pygrid.domain import build_domain
        from pygrid.storage.start import prepare_store
        from pygrid.transport.identity import IDENTITY_FILE, Identity

    def prepare() -> Callable[[int], str]:
        has_owner = prepare_store(settings)
        identity = Identity.load_or_make(settings.data_dir / IDENTITY_FILE).key
        return lambda port: banner(settings, port, has_owner, str(identity))

    serving.serve(settings, port_file, prepare, lambda lock: build_domain(settings, folder_lock=lock))


def banner(settings: DomainSettings, port: int, has_owner: bool, identity: str) -> str:
    """The lines that the operator sees when the Domain is ready."""
    address = serving.shown_address(settings, port)
    if not is_loopback_host(settings.host):
        reach = f"every machine that reaches {settings.host}"
    else:
        reach = "this machine only" if settings.is_loopback else "this machine, and callers that the Network relays"
    lines = [
        f"Domain {settings.id} is ready.",
        f"  address      {address}  ({reach})",
        f"  console      {serving.console_address(settings, address)}",
        f"  data folder  {settings.data_dir.resolve()}",
        f"  sign-up      {'open' if settings.open_signup else 'closed; Owners and Administrators create accounts'}",
        f"  identity     {identity}",
    ]
    if settings.network:
        lines.append(f"  network      {settings.network}  (see: pygrid association list)")
    if settings.legacy_open:
        lines.append("  legacy open  hosting and downloads need no account")
    if not has_owner:
        lines += serving.first_steps(settings, address)
    lines.append("Ctrl-C stops it.")
    return "\n".join(lines)
