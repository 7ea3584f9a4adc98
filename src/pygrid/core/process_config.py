"""The configuration of a process, checked when the process is hosted.

The first fields of `ProcessConfig` are those of the legacy interface. The others are fields of pygrid.
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
"""Default for named clients: their sizes may differ much, and signed tokens back their claims."""
MAX_CLIENT_CONFIG_BYTES = 64 * 1024
_MAX_COUNT = 1_000_000
_MAX_SECONDS = 366 * 24 * 3600.0


class Authentication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The authentication of devices. Without any field, all devices may take part.

    ``secret`` is tried first, then ``pub_key``; one success is enough. Then ``endpoint`` is called, if it is set.
    """

    secret: str | None = None
    """HMAC key of JWTs signed with HS256, at least 32 bytes."""
    pub_key: str | None = None
    """PEM public key of JWTs signed with RS256."""
    endpoint: str | None = None
    """URL that receives ``{"auth_token": ...}`` by POST. Any other status than 200 refuses the device."""
    type: Literal["jwt"] | None = None
    aud: str | None = None
    """Required audience: ``aud`` of the JWT is this text, or a list that contains it. null: any."""
    iss: str | None = None
    """Required issuer: ``iss`` of the JWT. null: any."""
    require_exp: bool = False
    """Whether to refuse a JWT without ``exp``, which never expires."""


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of the cycles of a process."""

    cycle_length: float | None
    """Seconds from the opening of a cycle to its deadline; null: no deadline. Required."""
    num_cycles: int = 0
    """Number of cycles; 0: unlimited."""
    min_workers: int = 0
    """A cycle opens when this many clients request it; 0 or 1: at once."""
    max_workers: int | None = None
    """Maximum number of clients in a cycle."""
    pool_selection: Literal["iterate", "random"] = "iterate"
    """Choice among too many clients: the first requests, or a random draw."""
    do_not_reuse_workers_until_cycle: int = 0
    """Number of cycles that a client pauses after a cycle to which it was admitted."""
    min_diffs: int | None = None
    """Minimum number of reports to complete a cycle."""
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
    """For ``pool_selection`` ``random``: length of the window whose requests are drawn together."""
    max_weight: int = 10_000
    """Maximum weight of a report that is weighted by its number of examples."""
    aggregation: Aggregation | None = None
    """Rule for averaging diffs. null: centred clipping; with ``named_clients`` the mean with bound 4 and no weight cap.
    """
    outlier_factor: float | msgspec.UnsetType | None = msgspec.UNSET
    """Older form of ``aggregation``: the mean weighted by examples, with this ``bound`` (null: none) and no weight cap.
    """
    server_optimizer: ServerOptimizer = ServerOptimizer()
    visibility: Literal["listed", "public"] | None = None
    """``listed``: visible to all accounts of the Domain. ``public``: visible to everybody, also through its Networks.
    null: public without ``authentication``, listed with it."""

    named_clients: bool = False
    """Whether clients have names: the ``sub`` of their tokens, one client for each. A cycle does not wait for a named
    client that has left. Requires ``authentication`` with a secret or a public key."""

    clients_per_subject: int = 1
    """Maximum number of clients with the same ``sub`` in their tokens; 0: unlimited."""

    @property
    def needs_speed_test(self) -> bool:
        """Whether the process has a minimum bandwidth."""
        return self.minimum_upload_speed is not None or self.minimum_download_speed is not None

    @property
    def rule(self) -> Aggregation:
        """The rule for averaging diffs without an averaging plan."""
        if self.aggregation is not None:
            return self.aggregation
        if self.outlier_factor is not msgspec.UNSET:
            return Aggregation("mean", bound=self.outlier_factor, weight_cap=None)
        return _NAMED if self.named_clients else Aggregation()

    @property
    def is_public(self) -> bool:
        """Whether callers without an account may see the process."""
        return self.visibility == "public" or (self.visibility is None and self.authentication is None)

    @property
    def needed_diffs(self) -> int:
        """Minimum number of reports to complete a cycle; at least 1."""
        return max(1, self.min_diffs or 0)

    @property
    def candidates_needed(self) -> int:
        """Number of clients that must request a cycle before it opens; at least 1."""
        return max(1, self.min_workers)

    def public(self) -> dict[str, Any]:
        """All fields as JSON values, without secrets."""
        values: dict[str, Any] = msgspec.to_builtins(replace(self, aggregation=self.rule, outlier_factor=msgspec.UNSET))
        if self.authentication is not None and self.authentication.secret is not None:
            values["authentication"]["secret"] = "(set)"
        return values


def read_server_config(raw: dict[str, Any]) -> ProcessConfig:
    """The configuration in ``raw``, a decoded JSON object.

    Raises:
        InvalidConfig: unknown or missing field, wrong type, a value out of range or in conflict with another. The
            error names the field.
    """
    if "cycle_length" not in raw:
        raise InvalidConfig(
            "server_config.cycle_length is required (seconds, or null for no limit)", field="cycle_length"
        )
    try:
        config = msgspec.convert(raw, ProcessConfig)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"server_config: {error}") from error
    _check_ranges(config)
    _check_together(config)
    return config


def _check_ranges(config: ProcessConfig) -> None:
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


def _check_together(config: ProcessConfig) -> None:
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
            "server_config.outlier_factor is an older form of aggregation: use aggregation.bound only",
            field="outlier_factor",
        )
    if config.rule.is_centred and config.rule.weights == "examples":
        raise InvalidConfig(
            "server_config.aggregation.weights is 'examples': centred_clipping weights all reports equally; use equal, "
            "or the name mean",
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
    from jwt import PyJWTError  # imported here, because it takes 9 MB and most Domains never need it
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
    """Name and version of the process from its ``client_config``. Clients receive the other fields unchanged.

    Raises:
        InvalidConfig: name or version is missing, not text, empty or over 200 characters; the object is over 64 KiB.
    """
    for field in ("name", "version"):
        value = raw.get(field)
        if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
            raise InvalidConfig(f"client_config.{field} must be a printable text of 1 to 200 characters", field=field)
    if len(msgspec.json.encode(raw)) > MAX_CLIENT_CONFIG_BYTES:
        raise InvalidConfig(f"client_config is over {MAX_CLIENT_CONFIG_BYTES} bytes", field="client_config")
    return raw["name"], raw["version"]
