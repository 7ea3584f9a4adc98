"""Settings of a Domain: from flags, else from the environment, else a default that is safe on any machine.

Each setting is declared once, as a field of `DomainSettings` with its environment variable, its flag and its meaning;
`docs/settings.md` lists the same, and a test holds the two together.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pygrid.errors import InvalidConfig

MIN_SECRET_BYTES = 32
_PUBLISHED_SECRET = "justasecretkeythatishouldputhere"
"""The constant that a Domain of 2020 fell back to; everybody knows it, so it is no secret."""

_DATA_DIR = Path("pygrid-data")


def _setting(default: Any, *, env: str, flag: str | None = None, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"env": env, "flag": flag, "help": help})


@dataclasses.dataclass(frozen=True, slots=True)
class DomainSettings:
    """What an operator can set. Made by `load_settings`, which checks it; times in seconds, sizes in bytes."""

    id: str = _setting("domain", env="NODE_ID", flag="--id", help="Name of this Domain, shown to people and to a Network.")
    host: str = _setting("127.0.0.1", env="GRID_NODE_HOST", flag="--host", help="Address to listen on; 0.0.0.0 is every one.")
    port: int = _setting(5000, env="GRID_NODE_PORT", flag="--port", help="Port to listen on; 0 picks a free one.")
    data_dir: Path = _setting(  # noqa: RUF009 - a path does not change
        _DATA_DIR, env="PYGRID_DATA_DIR", flag="--data-dir", help="Folder for everything the Domain keeps."
    )
    database_url: str = _setting(
        "",
        env="DATABASE_URL",
        flag="--database-url",
        help="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; empty: a SQLite file in the data folder.",
    )
    secret_key: str = dataclasses.field(
        default="",
        repr=False,
        metadata={
            "env": "SECRET_KEY",
            "flag": None,
            "help": "At least 32 bytes; signs what this Domain hands out. Needed unless it listens on loopback only.",
        },
    )
    network: str = _setting("", env="NETWORK", flag="--network", help="Address of the Network that this Domain belongs to.")
    num_replicas: int = _setting(
        1, env="NUM_REPLICAS", flag="--num-replicas", help="Copies kept of each checkpoint's bytes, at least 1."
    )
    open_signup: bool = _setting(
        None,
        env="PYGRID_OPEN_SIGNUP",
        flag="--open-signup/--closed-signup",
        help="Whether strangers may make an account (with the role User). Default: only on loopback.",
    )
    legacy_open: bool = _setting(
        False,
        env="PYGRID_LEGACY_OPEN",
        flag="--legacy-open",
        help="Let hosting and downloads go without an account, as in 2020. Loopback only.",
    )
    num_workers: int = _setting(
        2, env="PYGRID_NUM_WORKERS", flag="--num-workers", help="Jobs on private data that run at once, at least 1."
    )
    job_memory_mb: int = _setting(
        2048, env="PYGRID_JOB_MEMORY_MB", flag="--job-memory-mb", help="Memory that a job may use beside the data, in MiB."
    )
    job_wall_s: int = _setting(
        3600, env="PYGRID_JOB_WALL_S", flag="--job-wall-s", help="Seconds that a job may take before it is ended."
    )
    allow_weak_sandbox: bool = _setting(
        False,
        env="PYGRID_ALLOW_WEAK_SANDBOX",
        flag="--allow-weak-sandbox",
        help="Run strangers' plans even where this machine offers too little to lock them in (see pygrid worker doctor).",
    )
    prefer_remote_workers: bool = _setting(
        False,
        env="PYGRID_PREFER_REMOTE_WORKERS",
        flag="--prefer-remote-workers",
        help="Run jobs on Workers of other machines first, where the dataset's policy allows it; else when this one is busy.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", env="PYGRID_LOG_LEVEL", flag="--log-level", help="debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = _setting(
        "text", env="PYGRID_LOG_FORMAT", flag="--log-format", help="text for people, json (one object a line) for machines."
    )
    access_log: bool = _setting(
        False, env="PYGRID_ACCESS_LOG", flag="--access-log", help="Log one line for each request; failures (5xx) always are."
    )
    shutdown_s: int = _setting(
        5, env="PYGRID_SHUTDOWN_S", flag="--shutdown-s", help="Seconds that open requests get when the Domain is stopped."
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the Domain."""
        return _is_loopback(self.host)


def load_settings(env: Mapping[str, str] | None = None, **given: Any) -> DomainSettings:
    """The settings that hold: ``given`` (None: not given) before ``env`` (default: the process's) before the defaults.

    Reads no file and writes none; `with_secret` fills in a missing secret key afterwards.

    Raises:
        InvalidConfig: names the setting, its value and what is wanted.
    """
    environment = os.environ if env is None else env
    values: dict[str, Any] = {}
    for field in dataclasses.fields(DomainSettings):
        name = field.metadata["env"]
        if given.get(field.name) is not None:
            values[field.name] = given[field.name]
        elif environment.get(name):
            values[field.name] = _parse(field.name, name, environment[name], field.default)
    unknown = given.keys() - {field.name for field in dataclasses.fields(DomainSettings)}
    if unknown:
        raise InvalidConfig(f"no such setting: {', '.join(sorted(unknown))}", code="unknown_setting")
    return _check(DomainSettings(**values))


def with_secret(settings: DomainSettings) -> DomainSettings:
    """The settings with a secret key: the given one, else the one kept in the data folder, made on first use (mode 0600).

    Raises:
        InvalidConfig: ``secret_key_missing`` if others can reach the Domain and no key was given.
    """
    if settings.secret_key:
        return settings
    if not settings.is_loopback:
        raise InvalidConfig(
            f"SECRET_KEY is not set, and {settings.host} can be reached from other machines. Make one and keep it:\n"
            "  export SECRET_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')\n"
            "To try things out on this machine only, use --host 127.0.0.1, which needs none.",
            code="secret_key_missing",
            setting="SECRET_KEY",
        )
    return dataclasses.replace(settings, secret_key=_kept_secret(settings.data_dir / "secret-key"))


def make_data_dir(path: Path) -> None:
    """Make the data folder if it is not there, for its owner's eyes only.

    Raises:
        InvalidConfig: it can't be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(
            f"the data folder {path} cannot be made: {error.strerror}; choose another (--data-dir)",
            code="invalid_data_dir",
        ) from error


def _kept_secret(path: Path) -> str:
    make_data_dir(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_text().strip()
        if len(secret) < MIN_SECRET_BYTES:
            raise InvalidConfig(
                f"{path} holds no secret key: delete the file and a new one is made", code="secret_key_short"
            ) from None
        return secret
    with os.fdopen(descriptor, "w") as file:
        secret = secrets.token_hex(MIN_SECRET_BYTES)
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret


def _parse(field: str, name: str, text: str, default: Any) -> Any:
    """The value of an environment variable, by the type of the setting's default."""
    if field in ("open_signup", "legacy_open", "access_log", "allow_weak_sandbox", "prefer_remote_workers"):
        known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
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


def _check(settings: DomainSettings) -> DomainSettings:
    """The settings with what depends on others filled in, or the first thing wrong with them."""
    if not 0 <= settings.port <= 65535:
        raise _wrong("GRID_NODE_PORT (--port)", settings.port, "use a number from 0 to 65535")
    if settings.num_replicas < 1:
        raise _wrong("NUM_REPLICAS (--num-replicas)", settings.num_replicas, "use 1 or more")
    for name, value, least in (
        ("PYGRID_NUM_WORKERS (--num-workers)", settings.num_workers, 1),
        ("PYGRID_JOB_MEMORY_MB (--job-memory-mb)", settings.job_memory_mb, 64),
        ("PYGRID_JOB_WALL_S (--job-wall-s)", settings.job_wall_s, 1),
    ):
        if value < least:
            raise _wrong(name, value, f"use {least} or more")
    if settings.shutdown_s < 0:
        raise _wrong("PYGRID_SHUTDOWN_S (--shutdown-s)", settings.shutdown_s, "use 0 or more")
    if not settings.id.strip() or len(settings.id) > 100 or not settings.id.isprintable():
        raise _wrong("NODE_ID (--id)", settings.id, "use 1 to 100 printable characters")
    _check_one_of("PYGRID_LOG_LEVEL (--log-level)", settings.log_level, ("debug", "info", "warning", "error"))
    _check_one_of("PYGRID_LOG_FORMAT (--log-format)", settings.log_format, ("text", "json"))
    if settings.network and not settings.network.startswith(("http://", "https://")):
        raise _wrong("NETWORK (--network)", settings.network, "use an address that begins with http:// or https://")
    if settings.legacy_open and not settings.is_loopback:
        raise InvalidConfig(
            f"PYGRID_LEGACY_OPEN lets anyone host and download, and {settings.host} can be reached from other machines. "
            "Use it with --host 127.0.0.1 only.",
            code="legacy_open_refused",
            setting="PYGRID_LEGACY_OPEN",
        )
    if settings.secret_key and (
        len(settings.secret_key.encode()) < MIN_SECRET_BYTES or settings.secret_key == _PUBLISHED_SECRET
    ):
        raise InvalidConfig(
            f"SECRET_KEY is too short or publicly known: it needs {MIN_SECRET_BYTES} random bytes, for example\n"
            "  export SECRET_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')",
            code="secret_key_short",
            setting="SECRET_KEY",
        )
    # The processes that read strangers' files and plans work elsewhere, where a relative path leads nowhere.
    data_dir = settings.data_dir.absolute()
    return dataclasses.replace(
        settings,
        data_dir=data_dir,
        database_url=settings.database_url or f"sqlite:///{data_dir / 'domain.db'}",
        open_signup=settings.is_loopback if settings.open_signup is None else settings.open_signup,
    )


def _check_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _wrong(name, value, f"use one of {', '.join(choices)}")


def _wrong(name: str, value: object, wanted: str) -> InvalidConfig:
    return InvalidConfig(f"{name} is {str(value)!r}: {wanted}", code="invalid_setting", setting=name, value=str(value))


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
