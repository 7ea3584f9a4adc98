"""Reads settings from flags, else from the environment, else from the defaults, and checks them."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

from pygrid import codes
from pygrid.codes import Code
from pygrid.durable import make_once
from pygrid.errors import InvalidConfig
from pygrid.settings.domain import PUBLISHABLE_COUNTS, DomainSettings
from pygrid.settings.network import NetworkSettings
from pygrid.settings.shared import AppSettings, is_loopback_host

MIN_SECRET_BYTES = 32
_PUBLISHED_SECRET = "justasecretkeythatishouldputhere"
"""The default secret of a Domain of 2020, which is publicly known."""

NETWORK_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
"""The form of a Domain's name on a Network, where it is part of addresses and commands."""
_STORE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,5}/?")
_ENCRYPTION = re.compile(r"AES256|aws:kms(?::[A-Za-z0-9:/_.-]{1,300})?")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")

S = TypeVar("S", bound=AppSettings)


def load_settings(env: Mapping[str, str] | None = None, **given: Any) -> DomainSettings:
    """The settings of a Domain. No file is read or written; `with_secret` fills in a missing secret key.

    Args:
        env: the environment; default: that of the process.
        given: values that win over the environment; None means not given.
    Raises:
        InvalidConfig: names the setting, its value, and the values that are allowed.
    """
    settings = _complete(_check_domain(_check(_load(DomainSettings, env, given))), "domain.db")
    may = settings.allow_private_addresses
    return dataclasses.replace(settings, allow_private_addresses=settings.is_loopback if may is None else may)


def load_network_settings(env: Mapping[str, str] | None = None, **given: Any) -> NetworkSettings:
    """The settings of a Network, read as in `load_settings`."""
    settings = _complete(_check_network(_check(_load(NetworkSettings, env, given))), "network.db")
    here = settings.is_loopback
    return dataclasses.replace(
        settings,
        open_relay=here if settings.open_relay is None else settings.open_relay,
        allow_private_addresses=here if settings.allow_private_addresses is None else settings.allow_private_addresses,
    )


def _load(cls: type[S], env: Mapping[str, str] | None, given: dict[str, Any]) -> S:
    environment = os.environ if env is None else env
    _check_variables(cls, environment)
    kinds = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if given.get(field.name) is not None:
            values[field.name] = given[field.name]
            continue
        for name in (field.metadata["env"], field.metadata["also"]):
            if name and environment.get(name):
                values[field.name] = _parse(kinds[field.name], name, environment[name])
                break
    unknown = given.keys() - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise InvalidConfig(f"no such setting: {', '.join(sorted(unknown))}", code=codes.UNKNOWN_SETTING)
    return cls(**values)


def _check_variables(cls: type[AppSettings], environment: Mapping[str, str]) -> None:
    """Refuse a variable that was meant for a setting and is not read, such as PYGRID_DATABASE_URL.

    Raises:
        InvalidConfig: ``unknown_setting``.
    """
    fields = [field for kind in (DomainSettings, NetworkSettings, cls) for field in dataclasses.fields(kind)]
    known = {name for field in fields for name in (field.metadata["env"], field.metadata["also"])}
    by_field = {f"PYGRID_{field.name.upper()}": field.metadata["env"] for field in fields}
    for name, value in environment.items():
        # Kubernetes sets PYGRID_PORT=tcp://... for a service that is named pygrid.
        if not name.startswith("PYGRID_") or name in known or not value or value.startswith("tcp://"):
            continue
        if meant := by_field.get(name) or next(iter(difflib.get_close_matches(name, known, 1, 0.88)), None):
            raise InvalidConfig(
                f"{name} is not the variable of a setting; did you mean {meant}? Remove or rename it",
                code=codes.UNKNOWN_SETTING,
            )


def with_secret(settings: S) -> S:
    """The settings with a secret key: the given one, else that of the data folder, made at the first use (mode 0600).

    Raises:
        InvalidConfig: ``secret_key_missing``: others can reach the app, and no key was given.
    """
    if settings.secret_key:
        return settings
    if not settings.is_loopback:
        raise InvalidConfig(
            f"SECRET_KEY is not set, and {_reach(settings)}. Make one and keep it:\n"
            "  export SECRET_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')\n"
            "On this machine only (--host 127.0.0.1), none is needed.",
            code=codes.SECRET_KEY_MISSING,
            setting="SECRET_KEY",
        )
    return dataclasses.replace(settings, secret_key=_kept_secret(settings.data_dir / "secret-key"))


def make_data_dir(path: Path) -> None:
    """Make the data folder with mode 0700, if it does not exist.

    Raises:
        InvalidConfig: ``invalid_data_dir``: it cannot be made, or this user cannot write to it, for example to one that
            is mounted into a container.
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
            f"{path} holds no secret key of {MIN_SECRET_BYTES} bytes: delete the file, and a new one is made",
            code=codes.SECRET_KEY_SHORT,
        )
    return secret


_BOOLEANS = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}


def _parse(kind: type, name: str, text: str) -> Any:
    """The value of an environment variable, by the type of the setting."""
    if kind is bool:
        if (value := _BOOLEANS.get(text.strip().lower())) is None:
            raise _wrong(name, text, "use 1 or 0")
        return value
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise _wrong(name, text, "use a whole number") from None
    return Path(text) if kind is Path else text


def _check(settings: S) -> S:
    """The settings, after the checks that both apps share."""
    _check_limits(settings)
    if not settings.id.strip() or len(settings.id) > 100 or not settings.id.isprintable():
        raise _wrong_field(settings, "id", "use 1 to 100 printable characters")
    for name in filter(None, map(str.strip, settings.hosts.split(","))):
        if not _HOST_NAME.fullmatch(name):
            raise _wrong(_name(settings, "hosts"), name, "use names without port, like domain.example,alice")
    if settings.setup_code and not 16 <= len(settings.setup_code) <= 200:
        raise InvalidConfig(
            "PYGRID_SETUP_CODE must have 16 to 200 characters, because it makes an Owner", code=codes.SETUP_CODE_SHORT
        )
    read_networks(settings.trusted_proxies)
    read_networks(settings.metrics_from, "PYGRID_METRICS_FROM")
    if settings.secret_key and (
        len(settings.secret_key.encode()) < MIN_SECRET_BYTES or settings.secret_key == _PUBLISHED_SECRET
    ):
        raise InvalidConfig(
            f"SECRET_KEY is too short or publicly known: it needs {MIN_SECRET_BYTES} random bytes, for example\n"
            "  export SECRET_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')",
            code=codes.SECRET_KEY_SHORT,
            setting="SECRET_KEY",
        )
    _check_provider(settings)
    return settings


def _check_provider(settings: AppSettings) -> None:
    """Check the settings of the sign-in provider."""
    if not settings.oidc_issuer:
        alone = ("oidc_client_id", "oidc_role_claim", "oidc_roles", "oidc_default_role")
        if wrong := next((name for name in alone if getattr(settings, name)), None):
            raise _wrong_field(settings, wrong, "set PYGRID_OIDC_ISSUER, too, or remove it")
        return
    parts = urlsplit(settings.oidc_issuer)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(parts.hostname or ""))
    if not is_safe or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        wanted = "use the provider's https address without query; http is for a provider on this machine"
        raise _wrong_field(settings, "oidc_issuer", wanted)
    if not settings.oidc_client_id:
        raise _wrong_field(settings, "oidc_client_id", "set it to the id of this app at the provider")
    if "openid" not in settings.oidc_scopes.split():
        raise _wrong_field(settings, "oidc_scopes", "openid must be one of the scopes")
    if not settings.address and not settings.is_loopback:
        wanted = "set it to the address of this app that browsers use, because the provider leads them back to it"
        raise _wrong_field(settings, "address", wanted)
    if settings.oidc_role_claim.strip() and not settings.oidc_roles.strip():
        raise _wrong_field(settings, "oidc_roles", "use VALUE=ROLE, separated by semicolons")
    if settings.oidc_roles.strip() and not settings.oidc_role_claim.strip():
        raise _wrong_field(settings, "oidc_role_claim", "name the claim whose values PYGRID_OIDC_ROLES lists")
    for entry in filter(None, map(str.strip, settings.oidc_roles.split(";"))):
        value, equals, role = entry.rpartition("=")
        if not (equals and value.strip() and role.strip()):
            raise _wrong_field(settings, "oidc_roles", "use VALUE=ROLE, separated by semicolons")


def _check_limits(settings: AppSettings) -> None:
    """Compare each setting with its `min`, its `max` and its `choices`."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        low, high, choices = (field.metadata[key] for key in ("min", "max", "choices"))
        if choices and value not in choices:
            raise _wrong_field(settings, field.name, f"use one of {', '.join(choices)}")
        if (low is not None and value < low) or (high is not None and value > high):
            wanted = f"use {low} or more" if high is None else f"use a number from {low} to {high}"
            raise _wrong_field(settings, field.name, wanted)


def _check_domain(settings: DomainSettings) -> DomainSettings:
    _check_addresses(settings, "network", "address")
    if settings.network and not NETWORK_NAME.fullmatch(settings.id):
        wanted = "on a Network use A-Z, a-z, 0-9, dot, dash and underscore, with a letter or digit at both ends"
        raise _wrong_field(settings, "id", wanted)
    if len(settings.invitation) > 200:
        raise InvalidConfig(
            "PYGRID_INVITATION is longer than 200 characters, so it is not valid", code=codes.INVALID_SETTING
        )
    counts = settings.publish.split(",")
    if settings.publish not in ("all", "none") and not set(counts) <= set(PUBLISHABLE_COUNTS):
        wanted = f"use all, none, or some of {','.join(PUBLISHABLE_COUNTS)}, separated by commas"
        raise _wrong_field(settings, "publish", wanted)
    _check_presets(settings)
    _check_store(settings)
    if settings.legacy_open and not settings.is_loopback:
        raise _legacy_open_refused(settings, "lets anyone host and download")
    return settings


def _check_replicas(settings: AppSettings, switch: str, code: Code) -> None:
    """Check that replicas can share what they need.

    Args:
        switch: name of the setting that allows several processes.
        code: of a refusal.
    """
    if not settings.database_url.startswith(("postgresql://", "postgres://")):
        detail = f"{switch} needs a PostgreSQL database: set DATABASE_URL to postgresql://..."
        raise InvalidConfig(detail, code=code)
    if not settings.secret_key:
        detail = f"{switch} needs SECRET_KEY: a key in the data folder would be lost with its disk"
        raise InvalidConfig(detail, code=code)


def _check_store(settings: DomainSettings) -> None:
    """Check the settings of the store of files."""
    if not settings.store:
        return
    if not _STORE.fullmatch(settings.store):
        raise _wrong_store(f"PYGRID_STORE is {settings.store[:80]!r}: use s3://BUCKET or s3://BUCKET/PREFIX")
    _check_replicas(settings, "PYGRID_STORE", codes.INVALID_STORE)
    if settings.database_direct_url and not settings.database_direct_url.startswith(("postgresql://", "postgres://")):
        raise _wrong_store("PYGRID_DATABASE_DIRECT_URL must begin with postgresql://")
    parts = urlsplit(settings.s3_endpoint)
    if settings.s3_endpoint and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username):
        raise _wrong_store(f"PYGRID_S3_ENDPOINT is {settings.s3_endpoint[:80]!r}: use https://HOST, without a user")
    if settings.s3_sse and not _ENCRYPTION.fullmatch(settings.s3_sse):
        raise _wrong_store(f"PYGRID_S3_SSE is {settings.s3_sse[:80]!r}: use AES256 or aws:kms:KEY")


def _wrong_store(detail: str) -> InvalidConfig:
    return InvalidConfig(detail, code=codes.INVALID_STORE)


def _check_presets(settings: DomainSettings) -> None:
    try:
        presets = settings.named_budgets
    except ValueError:
        presets = {}
    if not presets or not all(name and 0.0 < epsilon <= 100.0 for name, epsilon in presets.items()):
        raise _wrong_field(settings, "budget_presets", "use names with an epsilon up to 100, like Strict=1,Usual=3")


def _check_network(settings: NetworkSettings) -> NetworkSettings:
    _check_addresses(settings, "address")
    if settings.invitation and not MIN_SECRET_BYTES <= len(settings.invitation) <= 200:
        raise InvalidConfig(
            f"PYGRID_INVITATION must have {MIN_SECRET_BYTES} to 200 characters, because everybody who guesses it can "
            "join the Network",
            code=codes.INVITATION_SHORT,
            setting="PYGRID_INVITATION",
        )
    if settings.legacy_open and not settings.is_loopback:
        raise _legacy_open_refused(settings, "lets anyone add and remove nodes")
    if settings.replicated:
        _check_replicas(settings, "PYGRID_REPLICATED", codes.INVALID_SETTING)
    return settings


def _check_addresses(settings: AppSettings, *names: str) -> None:
    for name in names:
        url = getattr(settings, name)
        if url and not url.startswith(("http://", "https://")):
            raise _wrong_field(settings, name, "use an address that begins with http:// or https://")
        try:
            urlsplit(url)
        except ValueError as error:
            raise _wrong_field(settings, name, f"this is not an address: {error}") from None


def _complete(settings: S, database: str) -> S:
    """The settings, with the defaults that depend on others."""
    # Absolute, because processes that read untrusted files and plans have another working folder.
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
    """How others can reach the app, in words."""
    if is_loopback_host(settings.host) and isinstance(settings, DomainSettings):
        return f"it can be reached through the Network {settings.network}"
    return f"{settings.host} can be reached from other machines"


def _name(settings: AppSettings, field: str) -> str:
    """The name of a setting in messages: ``VARIABLE (--flag)``."""
    meta = next(known.metadata for known in dataclasses.fields(settings) if known.name == field)
    return f"{meta['env']} ({meta['flag']})" if meta["flag"] else str(meta["env"])


def _wrong_field(settings: AppSettings, field: str, wanted: str) -> InvalidConfig:
    return _wrong(_name(settings, field), getattr(settings, field), wanted)


def _wrong(name: str, value: object, wanted: str) -> InvalidConfig:
    return InvalidConfig(
        f"{name} is {str(value)!r}: {wanted}", code=codes.INVALID_SETTING, setting=name, value=str(value)
    )


def read_networks(
    text: str, setting: str = "PYGRID_TRUSTED_PROXIES (--trusted-proxies)"
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The IP networks of a list like ``10.0.0.5,10.1.0.0/16``.

    Raises:
        InvalidConfig: ``invalid_setting``: an entry is neither an IP address nor a network.
    """
    try:
        return tuple(ipaddress.ip_network(entry.strip(), strict=False) for entry in text.split(",") if entry.strip())
    except ValueError as error:
        wanted = f"use IP addresses or networks, separated by commas ({error})"
        raise _wrong(setting, text, wanted) from None
