"""Settings of a Domain.

Each setting is declared once, as a field with its environment variable, its flag, its meaning and its limits.
`loading` reads and checks the values, the commands make their options from the fields, and the site lists them. A flag
wins over the variable, the variable over the default. The defaults are safe on any machine.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from pygrid.settings.shared import AppSettings, is_loopback_host, is_loopback_url, setting

_DATA_DIR = Path("pygrid-data")
PUBLISHABLE_COUNTS = ("datasets", "models", "processes", "cycles", "jobs", "users")
"""Numbers of a Domain that its Network can publish."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DomainSettings(AppSettings):
    """Settings of a Domain. Made by `load_settings`, which checks them."""

    app: ClassVar[Literal["domain"]] = "domain"

    id: str = setting(
        "domain",
        env="NODE_ID",
        flag="--id",
        panel="Basics",
        metavar="NAME",
        help="Name of this Domain, shown to people and to a Network.",
    )
    host: str = setting(
        "127.0.0.1",
        env="GRID_NODE_HOST",
        flag="--host",
        panel="Basics",
        metavar="HOST",
        help="Address to listen on; 0.0.0.0 means all interfaces.",
    )
    port: int = setting(
        5000,
        env="GRID_NODE_PORT",
        also="PORT",
        flag="--port",
        more_flags=("-p",),
        panel="Basics",
        min=0,
        max=65_535,
        help="Port to listen on; 0 picks a free one.",
    )
    data_dir: Path = setting(  # noqa: RUF009 - a path does not change
        _DATA_DIR, env="PYGRID_DATA_DIR", flag="--data-dir", panel="Basics", help="Folder for all data of the Domain."
    )
    network: str = setting(
        "",
        env="NETWORK",
        flag="--network",
        panel="Network",
        metavar="URL",
        help="Address of the Network that this Domain belongs to.",
    )
    num_replicas: int = setting(
        1,
        env="NUM_REPLICAS",
        also="N_REPLICAS",
        flag="--num-replicas",
        more_flags=("--num_replicas",),
        panel="Storage",
        min=1,
        help="Copies of each checkpoint's bytes that are kept, at least 1.",
    )
    store: str = setting(
        "",
        env="PYGRID_STORE",
        flag="--store",
        panel="Storage",
        metavar="URL",
        help="s3://BUCKET/PREFIX for all files, with PostgreSQL; default: the data folder.",
    )
    s3_endpoint: str = setting(
        "",
        env="PYGRID_S3_ENDPOINT",
        panel="Storage",
        metavar="URL",
        help="Address of the S3 store, for example https://s3.example; default: that of AWS.",
    )
    s3_region: str = setting(
        "us-east-1", env="PYGRID_S3_REGION", panel="Storage", metavar="NAME", help="Region of the bucket."
    )
    s3_path_style: bool = setting(
        False, env="PYGRID_S3_PATH_STYLE", panel="Storage", help="Whether addresses have the bucket in their path."
    )
    s3_sse: str = setting(
        "",
        env="PYGRID_S3_SSE",
        panel="Storage",
        metavar="NAME",
        help="Encryption that the store is asked for: AES256, or aws:kms:KEY; default: the bucket's own.",
    )
    cache_dir: str = setting(
        "",
        env="PYGRID_CACHE_DIR",
        panel="Storage",
        metavar="PATH",
        help="Folder for local copies of files in the store; default: cache in the data folder.",
    )
    cache_mb: int = setting(
        10_240,
        env="PYGRID_CACHE_MB",
        panel="Storage",
        min=64,
        help="Size of the local copies of files in the store, in MiB; at least 64.",
    )
    legacy_open: bool = setting(
        False,
        env="PYGRID_LEGACY_OPEN",
        flag="--legacy-open",
        panel="Accounts",
        help="Hosting and downloads without account, roles by private key alone; only on loopback.",
    )
    num_workers: int = setting(
        2,
        env="PYGRID_NUM_WORKERS",
        flag="--num-workers",
        panel="Jobs",
        min=1,
        help="Jobs on private data that run at the same time, at least 1.",
    )
    job_memory_mb: int = setting(
        2048,
        env="PYGRID_JOB_MEMORY_MB",
        flag="--job-memory-mb",
        panel="Jobs",
        min=64,
        help="Memory for a job in MiB, in addition to its data; at least 64.",
    )
    job_wall_s: int = setting(
        3600,
        env="PYGRID_JOB_WALL_S",
        flag="--job-wall-s",
        panel="Jobs",
        min=1,
        help="Seconds after which a running job is stopped.",
    )
    job_answers_mb: int = setting(
        64,
        env="PYGRID_JOB_ANSWERS_MB",
        flag="--job-answers-mb",
        panel="Jobs",
        min=1,
        help="Largest result of a job that predicts for each record, in MiB.",
    )
    federated_jobs_per_user: int = setting(
        8,
        env="PYGRID_FEDERATED_JOBS_PER_USER",
        flag="--federated-jobs-per-user",
        panel="Jobs",
        min=1,
        max=64,
        help="Jobs of one account that take part in training at other Domains at once, 1 to 64.",
    )
    review_result_percent: int = setting(
        10,
        env="PYGRID_REVIEW_RESULT_PERCENT",
        panel="Jobs",
        min=1,
        max=1_000_000,
        help="Size of a non-private result, in percent of the data, from which it is flagged in red.",
    )
    review_budget_percent: int = setting(
        80,
        env="PYGRID_REVIEW_BUDGET_PERCENT",
        panel="Jobs",
        min=1,
        max=100,
        help="Part of a budget, in percent, after which a job that would spend more is flagged.",
    )
    review_similar_requests: int = setting(
        5,
        env="PYGRID_REVIEW_SIMILAR_REQUESTS",
        panel="Jobs",
        min=1,
        help="Non-private requests on a dataset within 24 hours, from which each is flagged.",
    )
    review_account_h: int = setting(
        24,
        env="PYGRID_REVIEW_ACCOUNT_H",
        panel="Jobs",
        min=0,
        help="Age of an account in hours below which its requests are flagged; 0: never.",
    )
    review_groups: int = setting(
        50, env="PYGRID_REVIEW_GROUPS", panel="Jobs", min=1, help="Groups of one statistic above which it is flagged."
    )
    budget_presets: str = setting(
        "Strict=1,Usual=3,Loose=8",
        env="PYGRID_BUDGET_PRESETS",
        panel="Jobs",
        metavar="NAME=EPSILON,...",
        help="Privacy budgets that the web console offers, for example Strict=1,Usual=3.",
    )
    keep_results_days: int = setting(
        0,
        env="PYGRID_KEEP_RESULTS_DAYS",
        flag="--keep-results-days",
        panel="Storage",
        min=0,
        max=36_500,
        help="Days that the result of a job is kept after its release; 0: forever.",
    )
    inference_models: int = setting(
        4,
        env="PYGRID_INFERENCE_MODELS",
        flag="--inference-models",
        panel="Inference",
        min=1,
        help="Served models that stay loaded at the same time.",
    )
    inference_wall_s: int = setting(
        30,
        env="PYGRID_INFERENCE_WALL_S",
        flag="--inference-wall-s",
        panel="Inference",
        min=1,
        help="Seconds after which the prediction of a batch is stopped.",
    )
    inference_idle_s: int = setting(
        600,
        env="PYGRID_INFERENCE_IDLE_S",
        flag="--inference-idle-s",
        panel="Inference",
        min=1,
        help="Seconds without a request after which the process of a served model ends.",
    )
    inference_questions_mb: int = setting(
        256,
        env="PYGRID_INFERENCE_QUESTIONS_MB",
        flag="--inference-questions-mb",
        panel="Inference",
        min=1,
        help="Memory for waiting requests to served models, in MiB; one is always accepted.",
    )
    max_upload_mb: int = setting(
        65_536,
        env="PYGRID_MAX_UPLOAD_MB",
        flag="--max-upload-mb",
        panel="Storage",
        min=1,
        help="Largest file of a dataset that is accepted, in MiB.",
    )
    max_datasets_mb: int = setting(
        262_144,
        env="PYGRID_MAX_DATASETS_MB",
        flag="--max-datasets-mb",
        panel="Storage",
        min=1,
        help="Disk space for all datasets together, in MiB.",
    )
    max_columns: int = setting(
        4096,
        env="PYGRID_MAX_COLUMNS",
        flag="--max-columns",
        panel="Storage",
        min=1,
        max=4096,
        help="Largest number of columns of a dataset, 1 to 4096.",
    )
    min_free_mb: int = setting(
        512,
        env="PYGRID_MIN_FREE_MB",
        flag="--min-free-mb",
        panel="Storage",
        min=0,
        help="Disk space that uploads of datasets leave free, in MiB.",
    )
    allow_weak_sandbox: bool = setting(
        False,
        env="PYGRID_ALLOW_WEAK_SANDBOX",
        flag="--allow-weak-sandbox",
        panel="Jobs",
        help="Whether untrusted plans run even without a complete sandbox; see pygrid worker doctor.",
    )
    pools: str = setting(
        "", env="PYGRID_POOLS", flag="--pools", panel="Jobs", metavar="PATH", help="File of pools, usually pools.toml."
    )
    prefer_remote_workers: bool = setting(
        False,
        env="PYGRID_PREFER_REMOTE_WORKERS",
        flag="--prefer-remote-workers",
        panel="Jobs",
        help="Whether jobs go to remote Workers first, if policies allow; else only when this one is busy.",
    )
    clients_per_address: int = setting(
        64,
        env="PYGRID_CLIENTS_PER_ADDRESS",
        flag="--clients-per-address",
        panel="Network",
        min=0,
        max=1_000_000,
        help="Clients of a process per address, without those whose token has a subject; 0: no limit.",
    )
    authentications_per_minute: int = setting(
        60,
        env="PYGRID_AUTHENTICATIONS_PER_MINUTE",
        flag="--authentications-per-minute",
        panel="Network",
        min=0,
        max=1_000_000,
        help="Authentications of devices per minute, for an address or a token subject; 0: no limit.",
    )
    cycle_requests_per_minute: int = setting(
        1200,
        env="PYGRID_CYCLE_REQUESTS_PER_MINUTE",
        flag="--cycle-requests-per-minute",
        panel="Network",
        min=0,
        max=1_000_000,
        help="Cycle requests per minute from one address; 0: no limit.",
    )
    speed_tests_per_minute: int = setting(
        30,
        env="PYGRID_SPEED_TESTS_PER_MINUTE",
        flag="--speed-tests-per-minute",
        panel="Network",
        min=0,
        max=1_000_000,
        help="Speed tests, one direction each, per minute from one address; 0: no limit.",
    )
    client_expiry_days: int = setting(
        14,
        env="PYGRID_CLIENT_EXPIRY_DAYS",
        flag="--client-expiry-days",
        panel="Network",
        min=0,
        max=1_000_000,
        help="Days without a cycle request after which a client without a name expires; 0: never.",
    )
    limit_loopback: bool = setting(
        False,
        env="PYGRID_LIMIT_LOOPBACK",
        flag="--limit-loopback",
        panel="Network",
        help="Whether the limits per address also apply to devices on this machine.",
    )
    address: str = setting(
        "",
        env="ADDRESS",
        flag="--address",
        panel="Network",
        metavar="URL",
        help="Address for direct calls, like https://domain.example; default: only through its Network.",
    )
    allow_private_addresses: bool = setting(
        None,
        env="PYGRID_ALLOW_PRIVATE_ADDRESSES",
        flag="--allow-private-addresses/--public-addresses",
        panel="Network",
        help="Whether authentication.endpoint may be a private or local address; default: on loopback.",
    )
    invitation: str = setting(
        "",
        is_secret=True,
        env="PYGRID_INVITATION",
        panel="Network",
        help="Invitation to the Network in NETWORK; with it the Domain is accepted at once.",
    )
    publish: str = setting(
        "none",
        env="PYGRID_PUBLISH",
        flag="--publish",
        panel="Network",
        metavar="COUNTS",
        help=f"Counts that the Network may publish: all, none, or some of {','.join(PUBLISHABLE_COUNTS)}.",
    )

    @property
    def is_replicated(self) -> bool:
        """Whether several processes may serve the app. Then no file in a data folder is needed."""
        return bool(self.store)

    @property
    def named_budgets(self) -> dict[str, float]:
        """The presets of `budget_presets`: epsilon by name. Raises ValueError: one of them is not a number."""
        pairs = (part.partition("=") for part in self.budget_presets.split(","))
        return {name.strip(): float(epsilon) for name, _, epsilon in pairs}

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the Domain. All who can reach its Network can reach the Domain."""
        return is_loopback_host(self.host) and (not self.network or is_loopback_url(self.network))

    @property
    def published_counts(self) -> tuple[str, ...]:
        """The counts that the Network may publish."""
        if self.publish in ("all", "none"):
            return PUBLISHABLE_COUNTS if self.publish == "all" else ()
        return tuple(name for name in PUBLISHABLE_COUNTS if name in self.publish.split(","))
