"""The rules of a privacy budget: what a charge costs, whether it is within, what may become of it.

    reserved ──start──> running ──release──> released
        │                  └─────fail──────> failed
        ├──fail──> failed
        └──refund──> refunded        only if the job provably never started

A charge counts from `reserved` on, whatever becomes of it, except `refunded`: after a crash the data may have been
touched.

**One order.** When a ledger is opened one Renyi order is fixed for it (`open_cap`). A charge is accepted if the
divergences of all charges at that order stay within what the owner's (epsilon, delta) allows there. That is a filter
which holds for charges chosen by looking at all earlier answers (Feldman, Zrnic, NeurIPS 2021). "Some order still has
room" is looser and unproven.

**Two parts.** What has no Renyi curve is added up plainly, (epsilon_i, delta_i), against a part of the cap set aside
for it when the ledger is opened; the Renyi part may use the rest. Each part is a filter by itself, and together they
keep the cap.

A budget belongs to a dataset, not to a version of it: a new version shares most records with the one before.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from pygrid.errors import InvalidInput
from pygrid.privacy.accountants import (
    WHOLE_ORDERS,
    Curve,
    curve,
    divergence_within,
    index_of,
    zero_curve,
)
from pygrid.privacy.events import ApproximateDp, Event, Gaussian, PoissonSampledGaussian, check_delta, check_epsilon


class ChargeState(enum.StrEnum):
    RESERVED = "reserved"
    RUNNING = "running"
    RELEASED = "released"
    FAILED = "failed"
    REFUNDED = "refunded"


TRANSITIONS: dict[ChargeState, frozenset[ChargeState]] = {
    ChargeState.RESERVED: frozenset({ChargeState.RUNNING, ChargeState.FAILED, ChargeState.REFUNDED}),
    ChargeState.RUNNING: frozenset({ChargeState.RELEASED, ChargeState.FAILED}),
    ChargeState.RELEASED: frozenset(),
    ChargeState.FAILED: frozenset(),
    ChargeState.REFUNDED: frozenset(),
}
"""Where each state may lead; `refunded` from `reserved` alone."""


class Use(enum.StrEnum):
    """What a budget is mostly meant for; decides at which order it is kept."""

    STATISTICS = "statistics"
    TRAINING = "training"
    """Training on samples of 1% with little noise, z = 1."""
    MIXED = "mixed"


class Refusal(enum.StrEnum):
    """Why a charge is refused."""

    NO_BUDGET = "no_budget"
    """The dataset has no ledger: its owner has not opened one."""
    NO_GRANT = "no_grant"
    """The dataset has one, but nothing of it is meant for this user."""
    DATASET_EXHAUSTED = "dataset_budget_exhausted"
    USER_EXHAUSTED = "user_budget_exhausted"
    ALREADY_SETTLED = "already_settled"
    """The job has a charge, and it has ended: a second run needs a job of its own."""


@dataclass(frozen=True, slots=True)
class Rejected:
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Accepted:
    pass


@dataclass(frozen=True, slots=True)
class Cap:
    """What is allowed: ``epsilon`` and ``delta`` in all, of which the basic part is for events without a Renyi curve.

    Made by `open_cap`; ``order`` stays as long as the ledger does.
    """

    epsilon: float
    delta: float
    order: int
    basic_epsilon: float = 0.0
    basic_delta: float = 0.0

    @property
    def divergence(self) -> float:
        """The Renyi divergence allowed at ``order``."""
        return divergence_within(self.epsilon - self.basic_epsilon, self.delta - self.basic_delta, self.order)


@dataclass(frozen=True)
class Cost:
    """The price of some events: a Renyi curve, and a plain pair for those that have none."""

    curve: Curve
    basic_epsilon: float
    basic_delta: float

    def at(self, order: int) -> Spending:
        """What a ledger kept at this order counts."""
        return Spending(float(self.curve[index_of(order)]), self.basic_epsilon, self.basic_delta)


@dataclass(frozen=True, slots=True)
class Spending:
    """A sum of charges as one ledger counts it."""

    divergence: float = 0.0
    basic_epsilon: float = 0.0
    basic_delta: float = 0.0


def open_cap(
    epsilon: float, delta: float, use: Use = Use.MIXED, *, basic_epsilon: float = 0.0, basic_delta: float = 0.0
) -> Cap:
    """A cap of (epsilon, delta) at the order that suits the use best.

    Args:
        basic_epsilon, basic_delta: the part set aside for events without a Renyi curve, below epsilon and delta.
    Raises:
        InvalidInput: a value out of range; ``budget_too_small`` if no order has room for anything.
    """
    check_epsilon(epsilon)
    check_delta(delta)
    if not (0.0 <= basic_epsilon < epsilon and 0.0 <= basic_delta < delta):
        raise InvalidInput(
            f"the part set aside, ({basic_epsilon}, {basic_delta}), must be below the whole, ({epsilon}, {delta})",
            code="invalid_basic_part",
        )
    order = choose_order(epsilon - basic_epsilon, delta - basic_delta, use)
    return Cap(float(epsilon), float(delta), order, float(basic_epsilon), float(basic_delta))


def check_delta_for(delta: float, num_records: int) -> None:
    """Refuse a delta that is not well below 1 / ``num_records``: to publish records drawn by chance is (0, delta)-DP.

    Raises:
        InvalidInput: ``invalid_delta``: it is above 1 / (10 num_records).
    """
    check_delta(delta)
    most = 1 / (10 * max(1, num_records))
    if delta > most:
        raise InvalidInput(
            f"delta is {delta:g}, which protects little on {num_records:,} records: use at most 1 / (10 x records), {most:.2g}",
            code="invalid_delta",
        )


def change_cap(cap: Cap, epsilon: float) -> Cap:
    """The cap with another epsilon, at the order it was opened with.

    Raises:
        InvalidInput: ``budget_too_small`` if that order has no room at this epsilon.
    """
    check_epsilon(epsilon)
    changed = Cap(float(epsilon), cap.delta, cap.order, cap.basic_epsilon, cap.basic_delta)
    if not (epsilon > cap.basic_epsilon and changed.divergence > 0.0):
        raise _too_small(epsilon, cap.delta, f" at the order {cap.order} that this ledger is kept at")
    return changed


def choose_order(epsilon: float, delta: float, use: Use) -> int:
    """The whole order at which (epsilon, delta) buys most of what it is for.

    For `Use.STATISTICS` and `Use.MIXED`: the order at which Gaussian noise may be smallest. Training whose noise is
    calibrated to the budget needs least noise at the same order, so nothing is lost by it. For `Use.TRAINING`: the
    order with the most rounds of z = 1 on samples of 1%.

    Raises:
        InvalidInput: ``budget_too_small``.
    """
    yardstick = curve(PoissonSampledGaussian(0.01, 1.0, 1) if use is Use.TRAINING else Gaussian(10.0))
    num_rounds = {order: divergence_within(epsilon, delta, order) / yardstick[index_of(order)] for order in WHOLE_ORDERS}
    best = max(num_rounds, key=lambda order: num_rounds[order])
    if num_rounds[best] <= 0.0:
        raise _too_small(epsilon, delta, "")
    return best


def cost_of(events: Iterable[Event]) -> Cost:
    """The price of events, from their declared parameters alone."""
    total, basic_epsilon, basic_delta = zero_curve(), 0.0, 0.0
    for event in events:
        if isinstance(event, ApproximateDp):
            basic_epsilon += event.epsilon
            basic_delta += event.delta
        else:
            total += curve(event)
    return Cost(total, basic_epsilon, basic_delta)


def is_within(spent: Spending, cost: Spending, cap: Cap) -> bool:
    """Whether the cost still fits beside what is spent. Anything that is not a number does not."""
    return (
        _fits(spent.divergence, cost.divergence, cap.divergence)
        and _fits(spent.basic_epsilon, cost.basic_epsilon, cap.basic_epsilon)
        and _fits(spent.basic_delta, cost.basic_delta, cap.basic_delta)
    )


def check(dataset: tuple[Spending, Cap], user: tuple[Spending, Cap], cost: Cost) -> Accepted | Rejected:
    """Whether a charge may be made: it has to fit into the cap of the dataset and into that of the user."""
    spent, cap = dataset
    if not is_within(spent, cost.at(cap.order), cap):
        return Rejected(Refusal.DATASET_EXHAUSTED)
    spent, cap = user
    if not is_within(spent, cost.at(cap.order), cap):
        return Rejected(Refusal.USER_EXHAUSTED)
    return Accepted()


def epsilon_spent(cost: Cost, cap: Cap) -> float:
    """What ``cost`` takes from a cap, in the cap's own epsilon: what is spent, and what is left, add up to ``cap.epsilon``.

    It is the share of the divergence that the cap allows at its order, so the price of a job is the same whatever was
    spent before. It says nothing about what these events guarantee by themselves; that is `epsilon_of` of their curve.
    """
    share = cost.at(cap.order).divergence / cap.divergence
    return share * (cap.epsilon - cap.basic_epsilon) + cost.basic_epsilon


def epsilon_left(cost: Cost, cap: Cap) -> float:
    """What is left of a cap after ``cost``, in its own epsilon; 0 if more was spent than it allows."""
    return max(0.0, cap.epsilon - epsilon_spent(cost, cap))


def best_guess(epsilon: float, prior: float = 0.5) -> float:
    """How sure somebody can become which of two contents a unit has, if ``prior`` was their chance of the right one before.

    Holds up to delta. Source: the definition of differential privacy, by Bayes' rule.
    """
    odds = prior / (1.0 - prior) * math.exp(min(epsilon, 700.0))
    return odds / (1.0 + odds)


def _fits(spent: float, cost: float, allowed: float) -> bool:
    # A cost of nothing fits even where nothing is set aside.
    return (math.isfinite(cost) and cost >= 0.0) and (cost == 0.0 or spent + cost <= allowed)


def _too_small(epsilon: float, delta: float, where: str) -> InvalidInput:
    return InvalidInput(
        f"a budget of epsilon {epsilon} at delta {delta} has no room for anything{where}: choose a larger one",
        code="budget_too_small",
    )
