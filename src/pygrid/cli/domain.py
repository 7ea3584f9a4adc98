"""``pygrid domain``: run a Domain until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pygrid.cli import serve as serving
from pygrid.settings import DomainSettings, is_loopback_host, load_settings, with_secret

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

_option = partial(serving.option, DomainSettings)


@app.command()
def domain(
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
    network: Annotated[str | None, _option("network")] = None,
    address: Annotated[str | None, _option("address")] = None,
    hosts: Annotated[str | None, _option("hosts")] = None,
    publish: Annotated[str | None, _option("publish")] = None,
    num_replicas: Annotated[int | None, _option("num_replicas", "--num-replicas", "--num_replicas")] = None,
    open_signup: Annotated[bool | None, _option("open_signup")] = None,
    legacy_open: Annotated[bool | None, _option("legacy_open")] = None,
    num_workers: Annotated[int | None, _option("num_workers")] = None,
    job_memory_mb: Annotated[int | None, _option("job_memory_mb")] = None,
    job_wall_s: Annotated[int | None, _option("job_wall_s")] = None,
    max_upload_mb: Annotated[int | None, _option("max_upload_mb")] = None,
    max_datasets_mb: Annotated[int | None, _option("max_datasets_mb")] = None,
    max_columns: Annotated[int | None, _option("max_columns")] = None,
    min_free_mb: Annotated[int | None, _option("min_free_mb")] = None,
    job_answers_mb: Annotated[int | None, _option("job_answers_mb")] = None,
    federated_jobs_per_user: Annotated[int | None, _option("federated_jobs_per_user")] = None,
    keep_results_days: Annotated[int | None, _option("keep_results_days")] = None,
    inference_models: Annotated[int | None, _option("inference_models")] = None,
    inference_wall_s: Annotated[int | None, _option("inference_wall_s")] = None,
    inference_idle_s: Annotated[int | None, _option("inference_idle_s")] = None,
    inference_questions_mb: Annotated[int | None, _option("inference_questions_mb")] = None,
    clients_per_address: Annotated[int | None, _option("clients_per_address")] = None,
    authentications_per_minute: Annotated[int | None, _option("authentications_per_minute")] = None,
    cycle_requests_per_minute: Annotated[int | None, _option("cycle_requests_per_minute")] = None,
    speed_tests_per_minute: Annotated[int | None, _option("speed_tests_per_minute")] = None,
    client_expiry_days: Annotated[int | None, _option("client_expiry_days")] = None,
    limit_loopback: Annotated[bool | None, _option("limit_loopback")] = None,
    allow_weak_sandbox: Annotated[bool | None, _option("allow_weak_sandbox")] = None,
    prefer_remote_workers: Annotated[bool | None, _option("prefer_remote_workers")] = None,
    allow_private_addresses: Annotated[bool | None, _option("allow_private_addresses")] = None,
    max_connections: Annotated[int | None, _option("max_connections")] = None,
    max_connections_per_address: Annotated[int | None, _option("max_connections_per_address")] = None,
    trusted_proxies: Annotated[str | None, _option("trusted_proxies")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
    access_log: Annotated[bool | None, _option("access_log")] = None,
    shutdown_s: Annotated[int | None, _option("shutdown_s")] = None,
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port to this file once the Domain is ready.")
    ] = None,
) -> None:
    """Start a Domain and run it until Ctrl-C or SIGTERM.

    Without options it listens on this machine only, port 5000, and keeps everything in ./pygrid-data:

        pygrid domain --id bob --port 5000
    """
    given = dict(locals())
    del given["port_file"], given["start_local_db"]
    serve(with_secret(load_settings(serving.environment(start_local_db), **given)), port_file)


def serve(settings: DomainSettings, port_file: Path | None) -> None:
    """Run a Domain in this process until a signal ends it (`pygrid.cli.serve.serve`)."""
    from pygrid.domain import build_domain
    from pygrid.storage.start import prepare_store
    from pygrid.transport.identity import IDENTITY_FILE, Identity

    def prepare() -> Callable[[int], str]:
        has_owner = prepare_store(settings)
        identity = Identity.load_or_make(settings.data_dir / IDENTITY_FILE).key
        return lambda port: banner(settings, port, has_owner, str(identity))

    serving.serve(settings, port_file, prepare, lambda lock: build_domain(settings, folder_lock=lock))


def banner(settings: DomainSettings, port: int, has_owner: bool, identity: str) -> str:
    """What the operator sees when the Domain is ready."""
    address = serving.shown_address(settings, port)
    if not is_loopback_host(settings.host):
        reach = f"every machine that reaches {settings.host}"
    else:
        reach = "this machine only" if settings.is_loopback else "this machine, and whoever the Network lets through"
    lines = [
        f"Domain {settings.id} is ready.",
        f"  address      {address}  ({reach})",
        f"  data folder  {settings.data_dir.resolve()}",
        f"  sign-up      {'open' if settings.open_signup else 'by those who run it'}",
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
