"""The form of a privacy budget, and what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.messages.jobs import PolicyInfo
from pygrid.privacy.words import explain_epsilon, sure

USES = {"mixed": "statistics and training", "statistics": "statistics", "training": "training"}


class Preset(msgspec.Struct, frozen=True):
    """A named budget that an owner can choose."""

    name: str
    epsilon: float
    certainty: str
    """The highest certainty that somebody can reach from 50%."""


def usual_delta(num_units: int) -> float:
    """Return 1 / (10 units), rounded down to a power of ten."""
    return float(10.0 ** math.floor(-math.log10(10 * max(1, num_units)) + 1e-9))


def list_presets(named: Mapping[str, float]) -> list[Preset]:
    """Return the presets of the settings, in their order."""
    return [Preset(name, epsilon, sure(epsilon)) for name, epsilon in named.items()]


def explain_budget(policy: PolicyInfo) -> str:
    """Return what a whole budget means."""
    return explain_epsilon(policy.epsilon, policy.delta, policy.unit or "record")


def read_policy(fields: Mapping[str, str], before: PolicyInfo | None) -> PolicyInfo:
    """Return the policy that a form describes; what never changes is that of the budget before.

    Raises:
        InvalidInput: ``invalid_form``, with ``field``.
    """
    epsilon = read_amount(fields, "epsilon", "the budget")
    share = (
        read_amount(fields, "epsilon_per_user", "the share of a person") if fields.get("epsilon_per_user") else epsilon
    )
    limit = fields.get("max_epsilon_per_job", "").strip()
    use = fields.get("use", "mixed")
    if use not in USES:
        raise _invalid("use", "choose what the budget is for")
    return PolicyInfo(
        epsilon=epsilon,
        delta=read_amount(fields, "delta", "delta") if before is None else before.delta,
        epsilon_per_user=share,
        auto_approve=fields.get("auto_approve") == "1",
        max_epsilon_per_job=read_amount(fields, "max_epsilon_per_job", "the limit of a job") if limit else None,
        use=use if before is None else before.use,  # type: ignore[arg-type]
        allow_remote_workers=(leaves := fields.get("allow_remote_workers") == "1"),
        pools=_pools(before, may_leave=leaves),
        unit=None,
        fresh_budget=fields.get("fresh_budget") == "1",
    )


def _pools(before: PolicyInfo | None, *, may_leave: bool) -> tuple[str, ...] | None:
    """Return the pools of the policy before, with or without that of remote Workers: the form has no other."""
    if before is None or before.pools is None:
        return None
    others = tuple(name for name in before.pools if name != "leased")
    return (*others, *(("leased",) if may_leave else ())) or ("local",)


def raises_privacy(wanted: PolicyInfo, before: PolicyInfo | None) -> bool:
    """Whether a policy allows more than the one before, so that a password is asked for."""
    if before is None:
        return wanted.allow_remote_workers
    return (
        wanted.epsilon > before.epsilon
        or wanted.epsilon_per_user > before.epsilon_per_user
        or (wanted.allow_remote_workers and not before.allow_remote_workers)
    )


def read_amount(fields: Mapping[str, str], key: str, name: str) -> float:
    """Return a field that is a number above 0. Raises InvalidInput: ``invalid_form``, with ``field``."""
    text = fields.get(key, "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise _invalid(key, f"{name} is {text[:40]!r}: write a number above 0")
    return value


def _invalid(field: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_FORM, field=field)
