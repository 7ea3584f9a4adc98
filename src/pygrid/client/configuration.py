"""The configuration of a process as dictionaries with typed keys, for editors and type checkers.

The Domain checks them when a process is hosted; a test compares the keys with those that it knows.
"""

from typing import Literal, TypedDict


class AuthenticationConfig(TypedDict, total=False):
    """How a device proves that it may take part."""

    secret: str | None
    """HMAC key of JWTs signed with HS256, at least 32 bytes."""
    pub_key: str | None
    """PEM public key of JWTs signed with RS256."""
    endpoint: str | None
    """URL that ``{"auth_token": ...}`` is posted to; each answer except 200 refuses the device."""
    type: Literal["jwt"] | None
    aud: str | None
    """The ``aud`` that a JWT must have."""
    iss: str | None
    """The ``iss`` that a JWT must have."""
    require_exp: bool
    """Whether a JWT needs ``exp``."""


class AggregationConfig(TypedDict, total=False):
    """How diffs are averaged."""

    name: Literal["centred_clipping", "mean"]
    weights: Literal["equal", "examples"] | None
    radius: float
    bound: float | None
    weight_cap: float | None


class ServerOptimizerConfig(TypedDict, total=False):
    """How the mean diff is applied to the model."""

    name: Literal["sgd", "momentum", "adagrad", "adam", "yogi"]
    learning_rate: float
    momentum: float
    beta1: float
    beta2: float
    tau: float


class ServerConfig(TypedDict, total=False):
    """How a process runs its cycles; ``cycle_length`` must be given."""

    cycle_length: float | None
    """Seconds from the opening of a cycle to its deadline; None: no deadline."""
    num_cycles: int
    """Cycles to run; 0: without end."""
    min_workers: int
    """A cycle opens when this many clients ask to take part; 0 or 1: at once."""
    max_workers: int | None
    """Largest number of clients that a cycle admits."""
    pool_selection: Literal["iterate", "random"]
    """Which clients are admitted if there are too many: the first, or a random sample."""
    do_not_reuse_workers_until_cycle: int
    """Cycles that a client sits out after one that it was admitted to."""
    min_diffs: int | None
    """A cycle does not complete with fewer reports."""
    max_diffs: int | None
    """A cycle closes at this many reports."""
    minimum_upload_speed: float | None
    """Mbit/s."""
    minimum_download_speed: float | None
    """Mbit/s."""
    authentication: AuthenticationConfig | None
    iterative_plan: bool
    """The hosted averaging plan takes one diff at a time."""
    pool_window_s: float
    """With ``pool_selection`` ``random``: requests of this many seconds are drawn together."""
    max_weight: int
    """Largest weight of a report that counts with its number of examples."""
    aggregation: AggregationConfig | None
    """How diffs are averaged; None: centred clipping."""
    outlier_factor: float | None
    """Older way to write ``aggregation``."""
    server_optimizer: ServerOptimizerConfig
    visibility: Literal["listed", "public"] | None
    """``listed``: users with an account on the Domain can see the process; ``public``: everybody can."""
    named_clients: bool
    """Clients are known by the ``sub`` of their tokens, one client for each."""
    clients_per_subject: int
    """Largest number of clients for one ``sub``; 0: any number."""


class ClientConfig(TypedDict, total=False):
    """How devices train in a cycle; each hyperparameter of the plan is a key, too."""

    epochs: int
    """Passes over the data of the device."""
    max_epochs: int
    """Older name of ``epochs``."""
    batch_size: int
    max_updates: int
    """Largest number of steps."""
    lr: float
    """The hyperparameter of this name, if the plan has it."""
