"""Settings of a Domain and of a Network: from flags, else from the environment, else a default that is safe on any
machine.

Each setting is declared once, as a field with its environment variable, its flag and its meaning; `docs/settings.md`
lists the same, and a test holds the two together. What both apps have is in `AppSettings`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

_DATA_DIR = Path("pygrid-data")
_NETWORK_DATA_DIR = Path("pygrid-network-data")
PUBLISHABLE_COUNTS = ("datasets", "models", "processes", "cycles", "jobs", "users")
"""What a Domain can tell a Network the number of."""


def _setting(default: Any, *, env: str, flag: str | None = None, help: str, also: str = "") -> Any:
    """A field with its variable, and ``also``: an older name of that, which counts where the present one is not set."""
    return dataclasses.field(default=default, metadata={"env": env, "flag": flag, "help": help, "also": also})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppSettings:
    """What an operator can set of any app. Times in seconds, sizes in bytes."""

    app: ClassVar[Literal["domain", "network"]]
    secret_key: str = dataclasses.field(
        default="",
        repr=False,
        metadata={
            "env": "SECRET_KEY",
            "flag": None,
            "help": "At least 32 bytes; signs what the app hands out. Needed unless it listens on loopback only.",
        },
    )
    setup_code: str = dataclasses.field(
        default="",
        repr=False,
        metadata={
            "env": "PYGRID_SETUP_CODE",
            "flag": None,
            "help": "Code of 16 or more characters that the first account needs off loopback; default: made at start.",
        },
    )
    hosts: str = _setting(
        "",
        env="PYGRID_HOSTS",
        flag="--hosts",
        help="Further names under which the app is reached, like domain.example,alice; see ADDRESS.",
    )
    database_url: str = _setting(
        "",
        env="DATABASE_URL",
        flag="--database-url",
        help="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; empty: a SQLite file in the data folder.",
    )
    open_signup: bool = _setting(
        None,
        env="PYGRID_OPEN_SIGNUP",
        flag="--open-signup/--closed-signup",
        help="Whether strangers may make an account (with the role User). Default: only on loopback.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", env="PYGRID_LOG_LEVEL", flag="--log-level", help="debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = _setting(
        "text",
        env="PYGRID_LOG_FORMAT",
        flag="--log-format",
        help="text for people, json (one object a line) for machines.",
    )
    access_log: bool = _setting(
        False,
        env="PYGRID_ACCESS_LOG",
        flag="--access-log",
        help="Log one line for each request; failures (5xx) always are.",
    )
    shutdown_s: int = _setting(
        5, env="PYGRID_SHUTDOWN_S", flag="--shutdown-s", help="Seconds that open requests get when the app is stopped."
    )
    max_connections: int = _setting(
        4096,
        env="PYGRID_MAX_CONNECTIONS",
        flag="--max-connections",
        help="Connections that are open at once, 16 to 60000.",
    )
    max_connections_per_address: int = _setting(
        512,
        env="PYGRID_MAX_CONNECTIONS_PER_ADDRESS",
        flag="--max-connections-per-address",
        help="Connections of one address that are open at once; 0: no limit. Loopback and trusted proxies are exempt.",
    )
    trusted_proxies: str = _setting(
        "",
        env="PYGRID_TRUSTED_PROXIES",
        flag="--trusted-proxies",
        help="Reverse proxies whose X-Forwarded-For is believed, like 10.0.0.5,10.1.0.0/16.",
    )
    id: str
    host: str
    port: int
    data_dir: Path
    legacy_open: bool
    address: str

    @property
    def host_names(self) -> frozenset[str]:
        """The names under which the app knows itself, in lower case; it also answers to IP addresses and loopback
        names.
        """
        names = [self.host, urlsplit(self.address).hostname or "", *self.hosts.split(",")]
        return frozenset(plain for name in names if (plain := name.strip().lower().rstrip(".")))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the app."""
        return is_loopback_host(self.host)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainSettings(AppSettings):
    """What an operator can set of a Domain. Made by `load_settings`, which checks it."""

    app: ClassVar[Literal["domain"]] = "domain"

    id: str = _setting(
        "domain", env="NODE_ID", flag="--id", help="Name of this Domain, shown to people and to a Network."
    )
    host: str = _setting(
        "127.0.0.1", env="GRID_NODE_HOST", flag="--host", help="Address to listen on; 0.0.0.0 is every one."
    )
    port: int = _setting(
        5000, env="GRID_NODE_PORT", also="PORT", flag="--port", help="Port to listen on; 0 picks a free one."
    )
    data_dir: Path = _setting(  # noqa: RUF009 - a path does not change
        _DATA_DIR, env="PYGRID_DATA_DIR", flag="--data-dir", help="Folder for everything the Domain keeps."
    )
    network: str = _setting(
        "", env="NETWORK", flag="--network", help="Address of the Network that this Domain belongs to."
    )
    num_replicas: int = _setting(
        1,
        env="NUM_REPLICAS",
        also="N_REPLICAS",
        flag="--num-replicas",
        help="Copies kept of each checkpoint's bytes, at least 1.",
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
        2048,
        env="PYGRID_JOB_MEMORY_MB",
        flag="--job-memory-mb",
        help="Memory that a job may use beside the data, in MiB.",
    )
    job_wall_s: int = _setting(
        3600, env="PYGRID_JOB_WALL_S", flag="--job-wall-s", help="Seconds that a job may take before it is ended."
    )
    job_answers_mb: int = _setting(
        64,
        env="PYGRID_JOB_ANSWERS_MB",
        flag="--job-answers-mb",
        help="Largest result of a job that has a model answer for each record, in MiB.",
    )
    federated_jobs_per_user: int = _setting(
        8,
        env="PYGRID_FEDERATED_JOBS_PER_USER",
        flag="--federated-jobs-per-user",
        help="Jobs of one account that take part in trainings at other Domains at once, 1 to 64.",
    )
    keep_results_days: int = _setting(
        0,
        env="PYGRID_KEEP_RESULTS_DAYS",
        flag="--keep-results-days",
        help="Days that the result of a job is kept after its release; 0: for good.",
    )
    inference_models: int = _setting(
        4, env="PYGRID_INFERENCE_MODELS", flag="--inference-models", help="Served models that are kept warm at once."
    )
    inference_wall_s: int = _setting(
        30,
        env="PYGRID_INFERENCE_WALL_S",
        flag="--inference-wall-s",
        help="Seconds that a served model may take for a batch.",
    )
    inference_idle_s: int = _setting(
        600,
        env="PYGRID_INFERENCE_IDLE_S",
        flag="--inference-idle-s",
        help="Seconds without a question after which the process of a served model is ended.",
    )
    inference_questions_mb: int = _setting(
        256,
        env="PYGRID_INFERENCE_QUESTIONS_MB",
        flag="--inference-questions-mb",
        help="Questions to served models that are held in memory at once, in MiB; one is always taken.",
    )
    max_upload_mb: int = _setting(
        65_536,
        env="PYGRID_MAX_UPLOAD_MB",
        flag="--max-upload-mb",
        help="Largest file of a dataset that is taken, in MiB.",
    )
    max_datasets_mb: int = _setting(
        262_144,
        env="PYGRID_MAX_DATASETS_MB",
        flag="--max-datasets-mb",
        help="What all datasets may take on the disk, in MiB.",
    )
    max_columns: int = _setting(
        4096, env="PYGRID_MAX_COLUMNS", flag="--max-columns", help="Most columns of a dataset, 1 to 4096."
    )
    min_free_mb: int = _setting(
        512, env="PYGRID_MIN_FREE_MB", flag="--min-free-mb", help="MiB that uploads of datasets leave free on the disk."
    )
    allow_weak_sandbox: bool = _setting(
        False,
        env="PYGRID_ALLOW_WEAK_SANDBOX",
        flag="--allow-weak-sandbox",
        help=(
            "Run strangers' plans even where this machine offers too little to lock them in (see pygrid worker doctor)."
        ),
    )
    prefer_remote_workers: bool = _setting(
        False,
        env="PYGRID_PREFER_REMOTE_WORKERS",
        flag="--prefer-remote-workers",
        help=(
            "Run jobs on Workers of other machines first, where the dataset's policy allows it; else when this one "
            "is busy."
        ),
    )
    clients_per_address: int = _setting(
        64,
        env="PYGRID_CLIENTS_PER_ADDRESS",
        flag="--clients-per-address",
        help="Clients of a process that one address may have, tokens with a subject apart; 0: any number.",
    )
    authentications_per_minute: int = _setting(
        60,
        env="PYGRID_AUTHENTICATIONS_PER_MINUTE",
        flag="--authentications-per-minute",
        help=(
            "Authentications of devices that one address, or one subject of tokens, may ask for a minute; 0: any "
            "number."
        ),
    )
    cycle_requests_per_minute: int = _setting(
        1200,
        env="PYGRID_CYCLE_REQUESTS_PER_MINUTE",
        flag="--cycle-requests-per-minute",
        help="Requests for a cycle that one address may send a minute; 0: any number.",
    )
    speed_tests_per_minute: int = _setting(
        30,
        env="PYGRID_SPEED_TESTS_PER_MINUTE",
        flag="--speed-tests-per-minute",
        help="Speed tests, one way each, that one address may run a minute; 0: any number.",
    )
    client_expiry_days: int = _setting(
        14,
        env="PYGRID_CLIENT_EXPIRY_DAYS",
        flag="--client-expiry-days",
        help="Days without a request for a cycle after which a client without a name expires; 0: never.",
    )
    limit_loopback: bool = _setting(
        False,
        env="PYGRID_LIMIT_LOOPBACK",
        flag="--limit-loopback",
        help="Hold devices on this machine to the limits for addresses, too.",
    )
    address: str = _setting(
        "",
        env="ADDRESS",
        flag="--address",
        help=(
            "Where others may call this Domain directly, like https://domain.example; empty: only through its Network."
        ),
    )
    allow_private_addresses: bool = _setting(
        None,
        env="PYGRID_ALLOW_PRIVATE_ADDRESSES",
        flag="--allow-private-addresses/--public-addresses",
        help=(
            "Whether authentication.endpoint may lie in a private network or on this machine. Default: only on "
            "loopback."
        ),
    )
    invitation: str = dataclasses.field(
        default="",
        repr=False,
        metadata={
            "env": "PYGRID_INVITATION",
            "flag": None,
            "help": "Invitation to the Network in NETWORK; with it the Domain is accepted at once.",
        },
    )
    publish: str = _setting(
        "none",
        env="PYGRID_PUBLISH",
        flag="--publish",
        help=(
            f"What the Network may tell everybody the number of: some of {','.join(PUBLISHABLE_COUNTS)}; or all, or "
            "none."
        ),
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the Domain; whoever reaches its Network reaches it through that."""
        return is_loopback_host(self.host) and (not self.network or is_loopback_url(self.network))

    @property
    def published_counts(self) -> tuple[str, ...]:
        """What the Network may tell the number of."""
        if self.publish in ("all", "none"):
            return PUBLISHABLE_COUNTS if self.publish == "all" else ()
        return tuple(name for name in PUBLISHABLE_COUNTS if name in self.publish.split(","))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(AppSettings):
    """What an operator can set of a Network. Made by `load_network_settings`, which checks it."""

    app: ClassVar[Literal["network"]] = "network"

    id: str = _setting(
        "network", env="NODE_ID", flag="--id", help="Name of this Network, shown to people and to Domains."
    )
    host: str = _setting(
        "127.0.0.1", env="GRID_NETWORK_HOST", flag="--host", help="Address to listen on; 0.0.0.0 is every one."
    )
    port: int = _setting(
        7000, env="GRID_NETWORK_PORT", also="PORT", flag="--port", help="Port to listen on; 0 picks a free one."
    )
    data_dir: Path = _setting(  # noqa: RUF009 - a path does not change
        _NETWORK_DATA_DIR, env="PYGRID_DATA_DIR", flag="--data-dir", help="Folder for everything the Network keeps."
    )
    num_replicas: int = _setting(
        1,
        env="NUM_REPLICAS",
        also="N_REPLICAS",
        flag="--num-replicas",
        help="Domains that choose-model-host names for a new model, at least 1.",
    )
    legacy_open: bool = _setting(
        False,
        env="PYGRID_LEGACY_OPEN",
        flag="--legacy-open",
        help="Let nodes join and leave without an account or invitation, as in 2020. Loopback only.",
    )
    open_relay: bool = _setting(
        None,
        env="PYGRID_OPEN_RELAY",
        flag="--open-relay/--closed-relay",
        help="Whether calls of strangers are relayed to Domains. Default: only on loopback.",
    )
    allow_private_addresses: bool = _setting(
        None,
        env="PYGRID_ALLOW_PRIVATE_ADDRESSES",
        flag="--allow-private-addresses/--public-addresses",
        help=(
            "Whether the address of a Domain may lie in a private network or on this machine. Default: only on "
            "loopback."
        ),
    )
    invitation: str = dataclasses.field(
        default="",
        repr=False,
        metadata={
            "env": "PYGRID_INVITATION",
            "flag": None,
            "help": "An invitation of 32 or more characters, good for any Domain while it is set: for whole fleets.",
        },
    )
    address: str = _setting(
        "",
        env="ADDRESS",
        flag="--address",
        help="Where others reach this Network, like https://network.example; empty: where each caller has reached it.",
    )
    heartbeat_s: int = _setting(
        10,
        env="PYGRID_HEARTBEAT_S",
        flag="--heartbeat-s",
        help="Seconds between two signs of life of a Domain, 1 to 600.",
    )


def is_loopback_url(url: str) -> bool:
    """Whether what is at an address is on this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Whether a host's name or IP address stands for this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
