"""How the Domain runs the cycles of a process: `ServerConfig`, checked when the process is hosted.

The first fields are those of the legacy interface. The others are fields of pygrid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from pygrid.aggregation.optimizers import USERS, ServerOptimizer
from pygrid.aggregation.rules import Aggregation
from pygrid.configs import Config, FieldFault, Spec, read_config
from pygrid.configuration.evaluation import Evaluation
from pygrid.configuration.schedules import SERVER_RATE, Scheduled, value_of, values_at

_NAMED = Aggregation(name="mean", bound=4.0, weight_cap=None)
"""Default for named clients: their sizes may differ much, and signed tokens back their claims."""
_MAX_COUNT = 1_000_000
_MAX_SECONDS = 366 * 24 * 3600.0


class Authentication(Config, frozen=True, kw_only=True):
    """The authentication of devices. Without any field, all devices may take part.

    ``secret`` is tried first, then ``pub_key``; one success is enough. Then ``endpoint`` is called, if it is set.
    """

    secret: Annotated[str | None, Spec("a secret of at least 32 characters")] = None
    """HMAC key of JWTs signed with HS256, at least 32 bytes."""
    pub_key: Annotated[str | None, Spec("-----BEGIN PUBLIC KEY-----...")] = None
    """PEM public key of JWTs signed with RS256."""
    endpoint: Annotated[str | None, Spec("https://id.example/check")] = None
    """URL that receives ``{"auth_token": ...}`` by POST. Any other status than 200 refuses the device."""
    type: Annotated[Literal["jwt"] | None, Spec("jwt")] = None
    """A field of the published interface; all tokens are JWTs."""
    aud: Annotated[str | None, Spec("digits")] = None
    """Required audience: ``aud`` of the JWT is this text, or a list that contains it. Null: any."""
    iss: Annotated[str | None, Spec("https://id.example")] = None
    """Required issuer: ``iss`` of the JWT. Null: any."""
    require_exp: Annotated[bool, Spec(True)] = False
    """Whether to refuse a JWT without ``exp``, which never expires."""

    @property
    def has_subjects(self) -> bool:
        """Whether devices bring signed tokens, which can have a subject."""
        return bool(self.secret or self.pub_key)

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        if self.secret is not None and len(self.secret.encode()) < 32:
            yield FieldFault("secret", "must have at least 32 bytes")
        if self.pub_key is not None and not _is_public_key(self.pub_key):
            yield FieldFault("pub_key", "must be a public RSA key in PEM")
        for name in ("aud", "iss"):
            if (value := getattr(self, name)) is not None and not (0 < len(value) <= 500 and value.isprintable()):
                yield FieldFault(name, "must be a printable text of 1 to 500 characters")
            if value is not None and not self.has_subjects:
                yield FieldFault(name, "needs a secret or a pub_key: it is about signed tokens")
        if self.require_exp and not self.has_subjects:
            yield FieldFault("require_exp", "needs a secret or a pub_key: it is about signed tokens")
        if self.endpoint is not None and not _is_web_address(self.endpoint):
            yield FieldFault("endpoint", "must be an http(s) URL")


class ServerConfig(Config, frozen=True, kw_only=True):
    """How the Domain runs the cycles of a process."""

    cycle_length: Annotated[float | None, Spec(60, 0.1, _MAX_SECONDS)]
    """Seconds from the opening of a cycle to its deadline; null: no deadline. Required."""
    num_cycles: Annotated[int, Spec(20, 0, _MAX_COUNT)] = 0
    """Number of cycles; 0: unlimited."""
    min_workers: Annotated[int, Spec(10, 0, _MAX_COUNT)] = 0
    """A cycle opens when this many clients request it; 0 or 1: at once."""
    max_workers: Annotated[int | None, Spec(30, 1, _MAX_COUNT)] = None
    """Maximum number of clients in a cycle. Null: no maximum."""
    pool_selection: Annotated[Literal["iterate", "random"], Spec("random")] = "iterate"
    """Choice among too many clients: the first requests, or a random draw."""
    do_not_reuse_workers_until_cycle: Annotated[int, Spec(2, 0, _MAX_COUNT)] = 0
    """Number of cycles that a client pauses after a cycle to which it was admitted."""
    min_diffs: Annotated[int | None, Spec(10, 1, _MAX_COUNT)] = None
    """Minimum number of reports to complete a cycle. Null: 1."""
    max_diffs: Annotated[int | None, Spec(20, 1, _MAX_COUNT)] = None
    """A cycle closes at this many reports. Null: it closes at its deadline, or when ``max_workers`` have reported."""
    grace_s: Annotated[float, Spec(10.0, 0.0, _MAX_SECONDS)] = 0.0
    """Seconds after the end of a cycle, by ``max_diffs`` or its deadline, in which admitted clients may still report.
    These reports count like the others. The cycle closes as soon as all of its clients have reported."""
    late_first_s: Annotated[float, Spec(10.0, 0.0, 86_400.0)] = 0.0
    """With ``max_workers``: seconds after the opening of a cycle in which up to half of its places are kept for clients
    that were late in the cycle before. Such clients do not pause. Nobody is preferred twice in a row. 0: no places."""
    minimum_upload_speed: Annotated[float | None, Spec(1.0, 0.0, 1e6)] = None
    """Mbit/s that a client needs. Null: no speed test."""
    minimum_download_speed: Annotated[float | None, Spec(4.0, 0.0, 1e6)] = None
    """Mbit/s that a client needs. Null: no speed test."""
    authentication: Annotated[Authentication | None, Spec({"endpoint": "https://id.example/check"})] = None
    """How devices prove that they may take part. Null: all devices may."""
    iterative_plan: Annotated[bool, Spec(True)] = False
    """Whether the hosted averaging plan takes one diff at a time."""

    pool_window_s: Annotated[float, Spec(2.0, 0.0, 60.0)] = 1.0
    """With ``pool_selection`` ``random``: seconds of the window whose requests are drawn together."""
    max_weight: Annotated[int, Spec(1000, 1, _MAX_COUNT)] = 10_000
    """With reports weighted by examples: maximum weight of a report."""
    aggregation: Annotated[Aggregation | None, Spec({"name": "mean", "weights": "examples"})] = None
    """Rule for averaging diffs. Null: centred clipping; with ``named_clients`` the mean with bound 4 and no weight cap.
    """
    outlier_factor: Annotated[float | msgspec.UnsetType | None, Spec(4.0, 1.0, 1e6)] = msgspec.UNSET
    """Older form of ``aggregation``: the mean weighted by examples, with this ``bound`` (null: none) and no weight cap.
    """
    server_optimizer: Annotated[ServerOptimizer, Spec({"name": "adam", "learning_rate": 0.01})] = ServerOptimizer()
    """How the mean diff is applied to the model."""
    schedules: Annotated[
        Mapping[str, Scheduled], Spec({"lr": {"name": "cosine", "start": 0.3, "end": 0.01, "cycles": 100}})
    ] = msgspec.field(default_factory=dict)
    """Values that change from cycle to cycle, by name: a hyperparameter of the plan, ``epochs``, ``batch_size``,
    ``max_updates`` or ``server_optimizer.learning_rate``. Devices get the value of their cycle in ``client_config``."""
    evaluation: Annotated[Evaluation | None, Spec({"dataset": "held-out digits", "stop": {"patience": 5}})] = None
    """Evaluation of checkpoints on a dataset of the Domain, and early stopping. Null: none."""
    visibility: Annotated[Literal["listed", "public"] | None, Spec("listed")] = None
    """``listed``: visible to all accounts of the Domain. ``public``: visible to everybody, also through its Networks.
    Null: public without ``authentication``, listed with it."""

    named_clients: Annotated[bool, Spec(True)] = False
    """Whether clients have names: the ``sub`` of their tokens, one client for each. A cycle does not wait for a named
    client that has left. Requires ``authentication`` with a secret or a public key."""

    clients_per_subject: Annotated[int, Spec(3, 0, _MAX_COUNT)] = 1
    """With tokens and without ``named_clients``: maximum number of clients with the same ``sub``; 0: unlimited."""

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
            return Aggregation(name="mean", bound=self.outlier_factor, weight_cap=None)
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

    def optimizer_in(self, cycle: int) -> ServerOptimizer:
        """The server optimizer of a cycle, with its scheduled rate."""
        if SERVER_RATE not in self.schedules:
            return self.server_optimizer
        rate = value_of(SERVER_RATE, self.schedules[SERVER_RATE], cycle)
        return replace(self.server_optimizer, learning_rate=rate)

    def client_values_in(self, cycle: int) -> dict[str, float | int]:
        """The scheduled settings of devices in a cycle."""
        return values_at({name: one for name, one in self.schedules.items() if name != SERVER_RATE}, cycle)

    def unused(self) -> dict[str, str]:
        """The fields that have no effect with the others -> what they need."""
        found = {}
        if self.pool_selection != "random":
            found["pool_window_s"] = "it needs pool_selection 'random'"
        if self.max_workers is None:
            found["late_first_s"] = "it needs max_workers"
        if self.rule.has_equal_votes:
            found["max_weight"] = "reports have equal votes; it needs aggregation with the weights 'examples'"
        if self.authentication is None or not self.authentication.has_subjects:
            found["clients_per_subject"] = "it needs authentication with a secret or a pub_key"
        elif self.named_clients:
            found["clients_per_subject"] = "with named_clients, a subject is one client"
        return found

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        pairs = (("min_workers", "max_workers"), ("min_diffs", "max_diffs"))
        for low, high in (*pairs, ("min_diffs", "max_workers"), ("max_diffs", "max_workers")):
            a, b = getattr(self, low), getattr(self, high)
            if a is not None and b is not None and a > b:
                yield FieldFault(low, f"({a}) is more than {high} ({b})")
        if self.aggregation is not None and self.outlier_factor is not msgspec.UNSET:
            yield FieldFault("outlier_factor", "is an older form of aggregation: use aggregation.bound only")
        if self.named_clients and (self.authentication is None or not self.authentication.has_subjects):
            text = "needs authentication with a secret or a pub_key: names come from signed tokens"
            yield FieldFault("named_clients", text)
        if SERVER_RATE in self.schedules and "learning_rate" in self.server_optimizer.written():
            yield FieldFault(f"schedules.{SERVER_RATE}", "is in server_optimizer, too; use one of them")
        for name, needs in self.unused().items():
            if name in given:
                yield FieldFault(name, f"has no effect: {needs}")

    def public(self) -> dict[str, Any]:
        """All fields that have an effect as JSON values, without secrets."""
        shown = replace(self, aggregation=self.rule, outlier_factor=msgspec.UNSET)
        values: dict[str, Any] = msgspec.to_builtins(shown)
        for name in self.unused():
            del values[name]
        for name in self.rule.unused:
            del values["aggregation"][name]
        for name, users in USERS.items():
            if self.server_optimizer.name not in users:
                del values["server_optimizer"][name]
        if self.authentication is not None and self.authentication.secret is not None:
            values["authentication"]["secret"] = "(set)"
        if self.evaluation is not None:
            values["evaluation"]["dataset"] = "(set)"
        return values


def read_server_config(raw: Mapping[str, Any]) -> ServerConfig:
    """The configuration in ``raw``, a decoded JSON object.

    Raises:
        InvalidConfig: unknown or missing field, wrong type, a value out of range, in conflict with another or without
            an effect. The error names all faults with their fields.
    """
    return read_config(ServerConfig, raw, "server_config")


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
