"""Reads settings from flags, else from the environment, else from the defaults, and checks them."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pygrid import codes
from pygrid.durable import make_once
from pygrid.errors import InvalidConfig
from pygrid.settings.declared import PUBLISHABLE_COUNTS, AppSettings, DomainSettings, NetworkSettings, is_loopback_host

MIN_SECRET_BYTES = 32
_PUBLISHED_SECRET = "justasecretkeythatishouldputhere"
"""The constant that a Domain of 2020 fell back to; everybody knows it, so it is no secret."""


NETWORK_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""How a Domain may be called on a Network: its name is part of addresses and commands."""
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")
MAX_DEVICE_LIMIT = 1_000_000


S = TypeVar("S", bound=AppSettings)


def load_settings(env: Mapping[str, str] | None = None, **given: Any) -> DomainSettings:
    """The Domain's settings that hold: ``given`` (None: not given) before ``env`` (default: the process's) before the
    defaults.

    Reads no file and writes none; `with_secret` fills in a missing secret key afterwards.

    Raises:
        InvalidConfig: names the setting, its value and what is wanted.
    """
    settings = _complete(_check_domain(_check(_load(DomainSettings, env, given))), "domain.db")
    may = settings.allow_private_addresses
    return dataclasses.replace(settings, allow_private_addresses=settings.is_loopback if may is None else may)


def load_network_settings(env: Mapping[str, str] | None = None, **given: Any) -> NetworkSettings:
    """As `load_settings`, for a Network."""
    settings = _complete(_check_network(_check(_load(NetworkSettings, env, given))), "network.db")
    here = settings.is_loopback
    return dataclasses.replace(
        settings,
        open_relay=here if settings.open_relay is None else settings.open_relay,
        allow_private_addresses=here if settings.allow_private_addresses is None else settings.allow_private_addresses,
    )


def _load(cls: type[S], env: Mapping[str, str] | None, given: dict[str, Any]) -> S:
    environment = os.environ if env is None else env
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if given.get(field.name) is not None:
            values[field.name] = given[field.name]
            continue
        for name in (field.metadata["env"], field.metadata.get("also")):
            if name and environment.get(name):
                values[field.name] = _parse(field.name, name, environment[name], field.default)
                break
    unknown = given.keys() - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise InvalidConfig(f"no such setting: {', '.join(sorted(unknown))}", code=codes.UNKNOWN_SETTING)
    return cls(**values)


def with_secret(settings: S) -> S:
    """The settings with a secret key: the given one, else the one kept in the data folder, made on first use (mode
    0600).

    Raises:
        InvalidConfig: ``secret_key_missing`` if others can reach the app and no key was given.
    """
    if settings.secret_key:
        return settings
    if not settings.is_loopback:
        raise InvalidConfig(
            f"SECRET_KEY is not set, and {_reach(settings)}. Make one and keep it:\n"
            "  export SECRET_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')\n"
            "To try things out on this machine only, use --host 127.0.0.1, which needs none.",
            code=codes.SECRET_KEY_MISSING,
            setting="SECRET_KEY",
        )
    return dataclasses.replace(settings, secret_key=_kept_secret(settings.data_dir / "secret-key"))


def make_data_dir(path: Path) -> None:
    """Make the data folder if it is not there, for its owner's eyes only.

    Raises:
        InvalidConfig: ``invalid_data_dir``: it can't be made, or is somebody else's, as one mounted into a container
            may be.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(
            f"the data folder {path} cannot be made: {error.strerror}; choose another (--data-dir)",
            code=codes.INVALID_DATA_DIR,
        ) from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise InvalidConfig(
            f"user {os.getuid()} cannot write to the data folder {path}: make that user its owner "
            f"(chown {os.getuid()} FOLDER), or choose another folder (--data-dir)",
            code=codes.INVALID_DATA_DIR,
        )


def _kept_secret(path: Path) -> str:
    make_data_dir(path.parent)
    if not path.exists():
        make_once(path, f"{secrets.token_hex(MIN_SECRET_BYTES)}\n".encode())
    secret = path.read_text().strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidConfig(
            f"{path} holds no secret key: delete the file and a new one is made", code=codes.SECRET_KEY_SHORT
        )
    return secret


_DEPENDENT = frozenset({"open_signup", "open_relay", "allow_private_addresses"})
"""Yes-or-no settings whose default depends on others."""


def _parse(field: str, name: str, text: str, default: Any) -> Any:
    """The value of an environment variable, by the type of the setting's default."""
    if isinstance(default, bool) or field in _DEPENDENT:
        known = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if (value := known.get(text.strip().lower())) is None:
            raise _wrong(name, text, "use 1 or 0")
        return value
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise _wrong(name, text, "use a whole number") from None
    if isinstance(default, Path):
        return Path(text)
    return text


def _check(settings: S) -> S:
    """The settings, or the first thing wrong with what every app has."""
    if not 0 <= settings.port <= 65535:
        raise _wrong(_name(settings, "port"), settings.port, "use a number from 0 to 65535")
    if settings.shutdown_s < 0:
        raise _wrong("PYGRID_SHUTDOWN_S (--shutdown-s)", settings.shutdown_s, "use 0 or more")
    if not settings.id.strip() or len(settings.id) > 100 or not settings.id.isprintable():
        raise _wrong("NODE_ID (--id)", settings.id, "use 1 to 100 printable characters")
    for name in filter(None, map(str.strip, settings.hosts.split(","))):
        if not _HOST_NAME.fullmatch(name):
            raise _wrong("PYGRID_HOSTS (--hosts)", name, "use names without port, like domain.example,alice")
    if settings.setup_code and not 16 <= len(settings.setup_code) <= 200:
        raise InvalidConfig(
            "PYGRID_SETUP_CODE must have 16 to 200 characters, because it makes an Owner", code=codes.SETUP_CODE_SHORT
        )
    if not 16 <= settings.max_connections <= 60_000:
        raise _wrong(_name(settings, "max_connections"), settings.max_connections, "use a number from 16 to 60000")
    _check_at_least(settings, "max_connections_per_address", 0)
    read_networks(settings.trusted_proxies)
    _check_one_of("PYGRID_LOG_LEVEL (--log-level)", settings.log_level, ("debug", "info", "warning", "error"))
    _check_one_of("PYGRID_LOG_FORMAT (--log-format)", settings.log_format, ("text", "json"))
    if settings.secret_key and (
        len(settings.secret_key.encode()) < MIN_SECRET_BYTES or settings.secret_key == _PUBLISHED_SECRET
    ):
        raise InvalidConfig(
            f"SECRET_KEY is too short or publicly known: it needs {MIN_SECRET_BYTES} random bytes, for example\n"
            "  export SECRET_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')",
            code=codes.SECRET_KEY_SHORT,
            setting="SECRET_KEY",
        )
    return settings


def _check_domain(settings: DomainSettings) -> DomainSettings:
    _check_at_least(settings, "num_replicas", 1)
    for name, least in (("num_workers", 1), ("job_memory_mb", 64), ("job_wall_s", 1), ("job_answers_mb", 1)):
        _check_at_least(settings, name, least)
    if not 1 <= settings.federated_jobs_per_user <= 64:
        raise _wrong(
            _name(settings, "federated_jobs_per_user"), settings.federated_jobs_per_user, "use a number from 1 to 64"
        )
    if not 0 <= settings.keep_results_days <= 36_500:
        raise _wrong(
            _name(settings, "keep_results_days"), settings.keep_results_days, "use a number of days from 0 to 36500"
        )
    for name in ("inference_models", "inference_wall_s", "inference_idle_s", "inference_questions_mb"):
        _check_at_least(settings, name, 1)
    for name, least in (("max_upload_mb", 1), ("max_datasets_mb", 1), ("min_free_mb", 0)):
        _check_at_least(settings, name, least)
    if not 1 <= settings.max_columns <= 4096:
        raise _wrong(_name(settings, "max_columns"), settings.max_columns, "use a number from 1 to 4096")
    for name in (
        "clients_per_address",
        "authentications_per_minute",
        "cycle_requests_per_minute",
        "speed_tests_per_minute",
        "client_expiry_days",
    ):
        if not 0 <= getattr(settings, name) <= MAX_DEVICE_LIMIT:
            raise _wrong(_name(settings, name), getattr(settings, name), f"use a number from 0 to {MAX_DEVICE_LIMIT}")
    _check_addresses(settings, "network", "address")
    if settings.network and not NETWORK_NAME.fullmatch(settings.id):
        wanted = "on a Network use A-Z, a-z, 0-9, dot, dash and underscore, with a letter or digit at both ends"
        raise _wrong("NODE_ID (--id)", settings.id, wanted)
    if len(settings.invitation) > 200:
        raise InvalidConfig("PYGRID_INVITATION is no invitation: they are shorter", code=codes.INVALID_SETTING)
    counts = settings.publish.split(",")
    if settings.publish not in ("all", "none") and not set(counts) <= set(PUBLISHABLE_COUNTS):
        wanted = f"use all, none, or some of {','.join(PUBLISHABLE_COUNTS)} with commas between"
        raise _wrong("PYGRID_PUBLISH (--publish)", settings.publish, wanted)
    if settings.legacy_open and not settings.is_loopback:
        raise _legacy_open_refused(settings, "lets anyone host and download")
    return settings


def _check_network(settings: NetworkSettings) -> NetworkSettings:
    _check_at_least(settings, "num_replicas", 1)
    _check_addresses(settings, "address")
    if settings.invitation and not MIN_SECRET_BYTES <= len(settings.invitation) <= 200:
        raise InvalidConfig(
            f"PYGRID_INVITATION must have {MIN_SECRET_BYTES} to 200 characters, as whoever guesses it joins the "
            "Network",
            code=codes.INVITATION_SHORT,
            setting="PYGRID_INVITATION",
        )
    if not 1 <= settings.heartbeat_s <= 600:
        raise _wrong("PYGRID_HEARTBEAT_S (--heartbeat-s)", settings.heartbeat_s, "use a number from 1 to 600")
    if settings.legacy_open and not settings.is_loopback:
        raise _legacy_open_refused(settings, "lets anyone add and remove nodes")
    return settings


def _check_addresses(settings: AppSettings, *names: str) -> None:
    for name in names:
        url = getattr(settings, name)
        if url and not url.startswith(("http://", "https://")):
            raise _wrong(_name(settings, name), url, "use an address that begins with http:// or https://")
        try:
            urlsplit(url)
        except ValueError as error:
            raise _wrong(_name(settings, name), url, f"this is not an address: {error}") from None


def _complete(settings: S, database: str) -> S:
    """The settings with what depends on others filled in."""
    # The processes that read strangers' files and plans work elsewhere, where a relative path leads nowhere.
    data_dir = settings.data_dir.absolute()
    return dataclasses.replace(
        settings,
        data_dir=data_dir,
        database_url=settings.database_url or f"sqlite:///{data_dir / database}",
        open_signup=settings.is_loopback if settings.open_signup is None else settings.open_signup,
    )


def _legacy_open_refused(settings: AppSettings, what: str) -> InvalidConfig:
    return InvalidConfig(
        f"PYGRID_LEGACY_OPEN {what}, and {_reach(settings)}. Use it with --host 127.0.0.1 only.",
        code=codes.LEGACY_OPEN_REFUSED,
        setting="PYGRID_LEGACY_OPEN",
    )


def _reach(settings: AppSettings) -> str:
    """Who can reach the app, in words."""
    if is_loopback_host(settings.host) and isinstance(settings, DomainSettings):
        return f"it can be reached through the Network {settings.network}"
    return f"{settings.host} can be reached from other machines"


def _name(settings: AppSettings, field: str) -> str:
    """A setting as people give it: ``VARIABLE (--flag)``."""
    meta = next(known.metadata for known in dataclasses.fields(settings) if known.name == field)
    return f"{meta['env']} ({meta['flag']})"


def _check_at_least(settings: AppSettings, field: str, least: int) -> None:
    if (value := getattr(settings, field)) < least:
        raise _wrong(_name(settings, field), value, f"use {least} or more")


def _check_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _wrong(name, value, f"use one of {', '.join(choices)}")


def _wrong(name: str, value: object, wanted: str) -> InvalidConfig:
    return InvalidConfig(
        f"{name} is {str(value)!r}: {wanted}", code=codes.INVALID_SETTING, setting=name, value=str(value)
    )


def read_networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks in a list like ``10.0.0.5,10.1.0.0/16``.

    Raises:
        InvalidConfig: ``invalid_setting``: an entry is neither an IP address nor a network.
    """
    try:
        return tuple(ipaddress.ip_network(entry.strip(), strict=False) for entry in text.split(",") if entry.strip())
    except ValueError as error:
        wanted = f"use IP addresses or networks with commas between ({error})"
        raise _wrong("PYGRID_TRUSTED_PROXIES (--trusted-proxies)", text, wanted) from None
