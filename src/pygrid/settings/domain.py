"""Settings of a Domain.

Each setting is declared once: its default, its section of the help page, its meaning and its limits. The environment
variable of `name` is PYGRID_NAME, and its flag is --name, unless others are declared. `loading` reads and checks the
values, the commands make their options from the fields, and the site lists them. A flag wins over the variable, the
variable over the default. The defaults are safe on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pygrid.settings.shared import AppSettings, is_loopback_host, is_loopback_url, setting, settings_class

_DATA_DIR = Path("pygrid-data")
PUBLISHABLE_COUNTS = ("datasets", "models", "processes", "cycles", "jobs", "users")
"""Numbers of a Domain that its Network can publish."""


@settings_class
class DomainSettings(AppSettings):
    """Settings of a Domain. Made by `load_settings`, which checks them."""

    app: ClassVar[Literal["domain"]] = "domain"

    id: str = setting(
        "domain", "Basics", "Name of this Domain, shown to people and to a Network.", env="NODE_ID", metavar="NAME"
    )
    host: str = setting(
        "127.0.0.1",
        "Basics",
        "Address to listen on; 0.0.0.0 means all interfaces.",
        env="GRID_NODE_HOST",
        metavar="HOST",
    )
    port: int = setting(
        5000,
        "Basics",
        "Port to listen on; 0 picks a free one.",
        env="GRID_NODE_PORT",
        also="PORT",
        more_flags=("-p",),
        min=0,
        max=65_535,
    )
    data_dir: Path = setting(_DATA_DIR, "Basics", "Folder for all data of the Domain.")
    network: str = setting(
        "", "Network", "Address of the Network that this Domain belongs to.", env="NETWORK", metavar="URL"
    )
    num_replicas: int = setting(
        1,
        "Storage",
        "Copies of each checkpoint's bytes that are kept, at least 1.",
        env="NUM_REPLICAS",
        also="N_REPLICAS",
        more_flags=("--num_replicas",),
        min=1,
    )
    store: str = setting(
        "", "Storage", "s3://BUCKET/PREFIX for all files, with PostgreSQL; default: the data folder.", metavar="URL"
    )
    s3_endpoint: str = setting(
        "",
        "Storage",
        "Address of the S3 store, for example https://s3.example; default: that of AWS.",
        flag=None,
        metavar="URL",
    )
    s3_region: str = setting("us-east-1", "Storage", "Region of the bucket.", flag=None, metavar="NAME")
    s3_path_style: bool = setting(False, "Storage", "Whether addresses have the bucket in their path.", flag=None)
    s3_sse: str = setting(
        "",
        "Storage",
        "Encryption that the store is asked for: AES256, or aws:kms:KEY; default: the bucket's own.",
        flag=None,
        metavar="NAME",
    )
    cache_dir: str = setting(
        "",
        "Storage",
        "Folder for local copies of files in the store; default: cache in the data folder.",
        flag=None,
        metavar="PATH",
    )
    cache_mb: int = setting(
        10_240, "Storage", "Size of the local copies of files in the store, in MiB; at least 64.", flag=None, min=64
    )
    legacy_open: bool = setting(
        False, "Accounts", "Hosting and downloads without account, roles by private key alone; only on loopback."
    )
    num_workers: int = setting(2, "Jobs", "Jobs on private data that run at the same time, at least 1.", min=1)
    job_memory_mb: int = setting(2048, "Jobs", "Memory for a job in MiB, in addition to its data; at least 64.", min=64)
    job_wall_s: int = setting(3600, "Jobs", "Seconds after which a running job is stopped.", min=1)
    job_answers_mb: int = setting(64, "Jobs", "Largest result of a job that predicts for each record, in MiB.", min=1)
    federated_jobs_per_user: int = setting(
        8, "Jobs", "Jobs of one account that take part in training at other Domains at once, 1 to 64.", min=1, max=64
    )
    review_result_percent: int = setting(
        10,
        "Jobs",
        "Size of a non-private result, in percent of the data, from which it is flagged in red.",
        flag=None,
        min=1,
        max=1_000_000,
    )
    review_budget_percent: int = setting(
        80,
        "Jobs",
        "Part of a budget, in percent, after which a job that would spend more is flagged.",
        flag=None,
        min=1,
        max=100,
    )
    review_similar_requests: int = setting(
        5, "Jobs", "Non-private requests on a dataset within 24 hours, from which each is flagged.", flag=None, min=1
    )
    review_account_h: int = setting(
        24, "Jobs", "Age of an account in hours below which its requests are flagged; 0: never.", flag=None, min=0
    )
    review_groups: int = setting(50, "Jobs", "Groups of one statistic above which it is flagged.", flag=None, min=1)
    budget_presets: str = setting(
        "Strict=1,Usual=3,Loose=8",
        "Jobs",
        "Privacy budgets that the web console offers, for example Strict=1,Usual=3.",
        flag=None,
        metavar="NAME=EPSILON,...",
    )
    keep_results_days: int = setting(
        0, "Storage", "Days that the result of a job is kept after its release; 0: forever.", min=0, max=36_500
    )
    inference_models: int = setting(4, "Inference", "Served models that stay loaded at the same time.", min=1)
    inference_wall_s: int = setting(30, "Inference", "Seconds after which the prediction of a batch is stopped.", min=1)
    inference_idle_s: int = setting(
        600, "Inference", "Seconds without a request after which the process of a served model ends.", min=1
    )
    inference_questions_mb: int = setting(
        256, "Inference", "Memory for waiting requests to served models, in MiB; one is always accepted.", min=1
    )
    max_upload_mb: int = setting(65_536, "Storage", "Largest file of a dataset that is accepted, in MiB.", min=1)
    max_datasets_mb: int = setting(262_144, "Storage", "Disk space for all datasets together, in MiB.", min=1)
    max_columns: int = setting(4096, "Storage", "Largest number of columns of a dataset, 1 to 4096.", min=1, max=4096)
    min_free_mb: int = setting(512, "Storage", "Disk space that uploads of datasets leave free, in MiB.", min=0)
    allow_weak_sandbox: bool = setting(
        False, "Jobs", "Whether untrusted plans run even without a complete sandbox; see pygrid worker doctor."
    )
    pools: str = setting("", "Jobs", "File of pools, usually pools.toml.", metavar="PATH")
    prefer_remote_workers: bool = setting(
        False, "Jobs", "Whether jobs go to remote Workers first, if policies allow; else only when this one is busy."
    )
    clients_per_address: int = setting(
        64,
        "Network",
        "Clients of a process per address, without those whose token has a subject; 0: no limit.",
        min=0,
        max=1_000_000,
    )
    authentications_per_minute: int = setting(
        60,
        "Network",
        "Authentications of devices per minute, for an address or a token subject; 0: no limit.",
        min=0,
        max=1_000_000,
    )
    cycle_requests_per_minute: int = setting(
        1200, "Network", "Cycle requests per minute from one address; 0: no limit.", min=0, max=1_000_000
    )
    speed_tests_per_minute: int = setting(
        30,
        "Network",
        "Speed tests, one direction each, per minute from one address; 0: no limit.",
        min=0,
        max=1_000_000,
    )
    client_expiry_days: int = setting(
        14,
        "Network",
        "Days without a cycle request after which a client without a name expires; 0: never.",
        min=0,
        max=1_000_000,
    )
    limit_loopback: bool = setting(
        False, "Network", "Whether the limits per address also apply to devices on this machine."
    )
    address: str = setting(
        "",
        "Network",
        "Address for direct calls, like https://domain.example; default: only through its Network.",
        env="ADDRESS",
        metavar="URL",
    )
    allow_private_addresses: bool = setting(
        None,
        "Network",
        "Whether authentication.endpoint may be a private or local address; default: on loopback.",
        flag="--allow-private-addresses/--public-addresses",
    )
    invitation: str = setting(
        "", "Network", "Invitation to the Network in NETWORK; with it the Domain is accepted at once.", is_secret=True
    )
    publish: str = setting(
        "none",
        "Network",
        f"Counts that the Network may publish: all, none, or some of {','.join(PUBLISHABLE_COUNTS)}.",
        metavar="COUNTS",
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
