"""What a model owner may configure about a process, checked once when it is hosted.

The first block of `ServerConfig` holds the published fields; each does what it says. The second block is pygrid's own.
"""

from __future__ import annotations

import math
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.aggregation.rules import Aggregation
from pygrid.errors import InvalidConfig

_NAMED = Aggregation("mean", bound=4.0, weight_cap=None)
"""For known parties, whose sizes may differ much and whose claims a signature backs."""
MAX_CLIENT_CONFIG_BYTES = 64 * 1024
_MAX_COUNT = 1_000_000
_MAX_SECONDS = 366 * 24 * 3600.0


class Authentication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a device proves that it may take part; nothing set: open to all.

    ``secret`` is tried first, then ``pub_key``; one success is enough. If ``endpoint`` is set it is asked after that.
    """

    secret: str | None = None
    """HMAC key of JWTs signed with HS256, at least 32 bytes."""
    pub_key: str | None = None
    """PEM public key of JWTs signed with RS256."""
    endpoint: str | None = None
    """URL to which ``{"auth_token": ...}`` is posted; any answer but 200 refuses."""
    type: Literal["jwt"] | None = None
    aud: str | None = None
    """Who the JWT must be meant for: its ``aud`` is this text, or a list that has it; null: ``aud`` does not matter."""
    iss: str | None = None
    """Who must have issued the JWT: its ``iss``; null: anyone with the key."""
    require_exp: bool = False
    """Whether a JWT without ``exp``, which never expires, is refused."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process runs its cycles."""

    cycle_length: float | None
    """Seconds from the opening of a cycle to its deadline; null: no deadline. Must be given."""
    num_cycles: int = 0
    """Cycles to run; 0: without end."""
    min_workers: int = 0
    """A cycle opens when this many clients ask to take part; 0 or 1: at once."""
    max_workers: int | None = None
    """Clients admitted to a cycle at the most."""
    pool_selection: Literal["iterate", "random"] = "iterate"
    """Who is admitted when more ask than there is room: the first to come, or drawn by lot."""
    do_not_reuse_workers_until_cycle: int = 0
    """Cycles that a client sits out after one that it was admitted to."""
    min_diffs: int | None = None
    """A cycle does not complete with fewer reports."""
    max_diffs: int | None = None
    """A cycle closes at this many reports."""
    minimum_upload_speed: float | None = None
    """Mbit/s."""
    minimum_download_speed: float | None = None
    """Mbit/s."""
    authentication: Authentication | None = None
    iterative_plan: bool = False
    """The hosted averaging plan takes one diff at a time."""

    pool_window_s: float = 1.0
    """With ``pool_selection`` ``random``: requests of this many seconds are drawn together."""
    max_weight: int = 10_000
    """A report that counts with its number of examples counts with at most this."""
    aggregation: Aggregation | None = None
    """How diffs are averaged.

    Null: centred clipping; with ``named_clients`` the mean with bound 4 and no weight cap.
    """
    outlier_factor: float | msgspec.UnsetType | None = msgspec.UNSET
    """Older way to write ``aggregation``: the mean weighted by examples, with this ``bound`` (null: none) and no weight
    cap.
    """
    server_optimizer: ServerOptimizer = ServerOptimizer()
    visibility: Literal["listed", "public"] | None = None
    """Who may know of the process: everybody with an account on the Domain, or everybody, through the Domain's Networks
    too;
    null: public if any device may take part, listed if devices must prove that they may."""

    named_clients: bool = False
    """Clients are known by the ``sub`` of their tokens: one for each, and a cycle does not wait for one that has left.
    Needs ``authentication`` with a secret or a public key."""

    clients_per_subject: int = 1
    """Clients that the bearers of tokens with one ``sub`` are together; 0: any number."""

    @property
    def needs_speed_test(self) -> bool:
        """Whether a floor for bandwidth is configured."""
        return self.minimum_upload_speed is not None or self.minimum_download_speed is not None

    @property
    def rule(self) -> Aggregation:
        """How diffs are averaged where the process has no averaging plan."""
        if self.aggregation is not None:
            return self.aggregation
        if self.outlier_factor is not msgspec.UNSET:
            return Aggregation("mean", bound=self.outlier_factor, weight_cap=None)
        return _NAMED if self.named_clients else Aggregation()

    @property
    def is_public(self) -> bool:
        """Whether strangers may know of the process."""
        return self.visibility == "public" or (self.visibility is None and self.authentication is None)

    @property
    def needed_diffs(self) -> int:
        """Reports without which a cycle does not complete; at least 1."""
        return max(1, self.min_diffs or 0)

    @property
    def candidates_needed(self) -> int:
        """Clients that must ask before a cycle opens; at least 1."""
        return max(1, self.min_workers)

    def public(self) -> dict[str, Any]:
        """As JSON values for people to see: complete, secrets left out."""
        values: dict[str, Any] = msgspec.to_builtins(replace(self, aggregation=self.rule, outlier_factor=msgspec.UNSET))
        if self.authentication is not None and self.authentication.secret is not None:
            values["authentication"]["secret"] = "(set)"
        return values


def read_server_config(raw: dict[str, Any]) -> ServerConfig:
    """The configuration in ``raw``, a decoded JSON object.

    Raises:
        InvalidConfig: unknown or missing field, wrong type, a value out of range or at odds with another; names the
            field.
    """
    if "cycle_length" not in raw:
        raise InvalidConfig(
            "server_config.cycle_length must be given (seconds, or null for no limit)", field="cycle_length"
        )
    try:
        config = msgspec.convert(raw, ServerConfig)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"server_config: {error}") from error
    _check_ranges(config)
    _check_together(config)
    return config


def _check_ranges(config: ServerConfig) -> None:
    counts = ("num_cycles", "min_workers", "do_not_reuse_workers_until_cycle", "clients_per_subject")
    positive_counts = ("max_workers", "min_diffs", "max_diffs", "max_weight")
    for name in counts:
        _check(name, getattr(config, name), 0, _MAX_COUNT)
    for name in positive_counts:
        _check(name, getattr(config, name), 1, _MAX_COUNT)
    _check("cycle_length", config.cycle_length, 0.1, _MAX_SECONDS)
    _check("minimum_upload_speed", config.minimum_upload_speed, 0.0, 1e6)
    _check("minimum_download_speed", config.minimum_download_speed, 0.0, 1e6)
    _check("pool_window_s", config.pool_window_s, 0.0, 60.0)
    if config.outlier_factor is not msgspec.UNSET:
        _check("outlier_factor", config.outlier_factor, 1.0, 1e6)
    _check("aggregation.radius", config.rule.radius, 0.01, 1e6)
    _check("aggregation.bound", config.rule.bound, 1.0, 1e6)
    _check("aggregation.weight_cap", config.rule.weight_cap, 1.0, 1e6)
    optimizer = config.server_optimizer
    _check("server_optimizer.learning_rate", optimizer.learning_rate, 1e-9, 1e6)
    _check("server_optimizer.tau", optimizer.tau, 1e-12, 1e6)
    for name in ("momentum", "beta1", "beta2"):
        _check(f"server_optimizer.{name}", getattr(optimizer, name), 0.0, 0.999_999)


def _check(field: str, value: float | int | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise InvalidConfig(f"server_config.{field} is {value}; it must be from {low:g} to {high:g}", field=field)


def _check_together(config: ServerConfig) -> None:
    def refuse(low: str, high: str) -> None:
        a, b = getattr(config, low), getattr(config, high)
        if a is not None and b is not None and a > b:
            raise InvalidConfig(f"server_config.{low} ({a}) is more than {high} ({b})", field=low)

    refuse("min_workers", "max_workers")
    refuse("min_diffs", "max_diffs")
    refuse("min_diffs", "max_workers")
    refuse("max_diffs", "max_workers")
    if config.aggregation is not None and config.outlier_factor is not msgspec.UNSET:
        raise InvalidConfig(
            "server_config.outlier_factor is an older way to write aggregation: give aggregation.bound alone",
            field="outlier_factor",
        )
    if config.rule.is_centred and config.rule.weights == "examples":
        raise InvalidConfig(
            "server_config.aggregation.weights is 'examples': centred_clipping has equal votes; use equal, or the name "
            "mean",
            field="aggregation.weights",
        )
    auth = config.authentication
    if config.named_clients and (auth is None or not (auth.secret or auth.pub_key)):
        raise InvalidConfig(
            "server_config.named_clients needs authentication with a secret or a pub_key: names come from signed "
            "tokens",
            field="named_clients",
        )
    if auth is None:
        return
    if auth.secret is not None and len(auth.secret.encode()) < 32:
        raise InvalidConfig(
            "server_config.authentication.secret must have at least 32 bytes", field="authentication.secret"
        )
    if auth.pub_key is not None and not _is_public_key(auth.pub_key):
        raise InvalidConfig(
            "server_config.authentication.pub_key must be a public RSA key in PEM", field="authentication.pub_key"
        )
    for name in ("aud", "iss"):
        if (value := getattr(auth, name)) is not None and not (0 < len(value) <= 500 and value.isprintable()):
            raise InvalidConfig(
                f"server_config.authentication.{name} must be a printable text of 1 to 500 characters",
                field=f"authentication.{name}",
            )
    if (auth.aud is not None or auth.iss is not None or auth.require_exp) and not (auth.secret or auth.pub_key):
        raise InvalidConfig(
            "server_config.authentication.aud, iss and require_exp are about signed tokens: set secret or pub_key, too",
            field="authentication",
        )
    if auth.endpoint is not None and not _is_web_address(auth.endpoint):
        raise InvalidConfig(
            "server_config.authentication.endpoint must be an http(s) URL", field="authentication.endpoint"
        )


def _is_public_key(pem: str) -> bool:
    from jwt import PyJWTError  # here, because most Domains never need it and it brings 9 MB
    from jwt.algorithms import RSAAlgorithm

    try:
        RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(pem)
    except (PyJWTError, ValueError, TypeError):
        return False
    return "PUBLIC KEY" in pem


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        return False


def read_client_config(raw: dict[str, Any]) -> tuple[str, str]:
    """Name and version of the process from its ``client_config``, whose other fields are passed through to clients.

    Raises:
        InvalidConfig: name or version missing, not text, empty or over 200 characters; the whole over 64 KiB.
    """
    for field in ("name", "version"):
        value = raw.get(field)
        if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
            raise InvalidConfig(f"client_config.{field} must be a printable text of 1 to 200 characters", field=field)
    if len(msgspec.json.encode(raw)) > MAX_CLIENT_CONFIG_BYTES:
        raise InvalidConfig(f"client_config is over {MAX_CLIENT_CONFIG_BYTES} bytes", field="client_config")
    return raw["name"], raw["version"]
