"""The rules of a privacy budget: the cost of a charge, whether the budget allows it, and the states of a charge.

    reserved ──start──> running ──release──> released
        │                  └─────fail──────> failed
        ├──fail──> failed
        └──refund──> refunded        only if the job provably never started

A charge counts in every state except `refunded`: after a crash, the job could have touched the data.

**One order.** `open_cap` fixes one Renyi order for a ledger. A charge is accepted if the divergences of all charges at
that order stay within what the owner's (epsilon, delta) allows there. This is a filter that holds for charges that are
chosen after all earlier answers (Feldman, Zrnic, NeurIPS 2021). The rule "some order still has room" is looser and
unproven.

**Two parts.** Events without a Renyi curve are added up as pairs (epsilon_i, delta_i), against a part of the cap that
is reserved for them when the ledger is opened. The Renyi part may use the rest. Each part is a filter by itself, and
together they keep the cap.

A budget belongs to a dataset, not to a version of it: a new version shares most records with the one before.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from pygrid import codes
from pygrid.errors import InvalidInput
from pygrid.privacy.accountants import WHOLE_ORDERS, Curve, curve, divergence_within, index_of, zero_curve
from pygrid.privacy.events import ApproximateDp, Event, Gaussian, PoissonSampledGaussian, check_delta, check_epsilon
from pygrid.units import decimal


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
"""The states that may follow each state. Only a `reserved` charge may become `refunded`."""


class Use(enum.StrEnum):
    """The main purpose of a budget, which determines the order of its ledger."""

    STATISTICS = "statistics"
    TRAINING = "training"
    """Training on samples of 1%, with little noise: z = 1."""
    MIXED = "mixed"


class BudgetRefusal(enum.StrEnum):
    """The reason why a charge is refused."""

    NO_BUDGET = "no_budget"
    """The dataset has no ledger, because its owner has not opened one."""
    NO_GRANT = "no_grant"
    """The dataset has a ledger, and no grant for this user."""
    DATASET_EXHAUSTED = "dataset_budget_exhausted"
    USER_EXHAUSTED = "user_budget_exhausted"
    ALREADY_SETTLED = "already_settled"
    """The charge of the job has ended: a second run needs a new job."""


@dataclass(frozen=True, slots=True)
class Rejected:
    reason: BudgetRefusal


@dataclass(frozen=True, slots=True)
class Accepted:
    pass


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit on ``epsilon`` and ``delta`` in total, of which the basic part is for events without a Renyi curve.

    `open_cap` makes it. ``order`` never changes during the life of a ledger.
    """

    epsilon: float
    delta: float
    order: int
    basic_epsilon: float = 0.0
    basic_delta: float = 0.0

    @property
    def divergence(self) -> float:
        """The Renyi divergence that the cap allows at ``order``."""
        return divergence_within(self.epsilon - self.basic_epsilon, self.delta - self.basic_delta, self.order)


@dataclass(frozen=True)
class Cost:
    """The cost of events: a Renyi curve, and a pair (epsilon, delta) for events without a curve."""

    curve: Curve
    basic_epsilon: float
    basic_delta: float

    def at(self, order: int) -> Spending:
        """The cost as a ledger of this order counts it."""
        return Spending(float(self.curve[index_of(order)]), self.basic_epsilon, self.basic_delta)


@dataclass(frozen=True, slots=True)
class Spending:
    """The sum of charges as a ledger counts it."""

    divergence: float = 0.0
    basic_epsilon: float = 0.0
    basic_delta: float = 0.0


def open_cap(
    epsilon: float, delta: float, use: Use = Use.MIXED, *, basic_epsilon: float = 0.0, basic_delta: float = 0.0
) -> Cap:
    """A cap of (epsilon, delta), at the best order for the use.

    Args:
        basic_epsilon: the part of epsilon for events without a Renyi curve; less than epsilon.
        basic_delta: the part of delta for such events; less than delta.
    Raises:
        InvalidInput: a value is out of range; or ``budget_too_small``: no order allows any charge.
    """
    check_epsilon(epsilon)
    check_delta(delta)
    if not (0.0 <= basic_epsilon < epsilon and 0.0 <= basic_delta < delta):
        raise InvalidInput(
            f"the basic part ({basic_epsilon}, {basic_delta}) must be smaller than the budget ({epsilon}, {delta})",
            code=codes.INVALID_BASIC_PART,
        )
    order = choose_order(epsilon - basic_epsilon, delta - basic_delta, use)
    return Cap(float(epsilon), float(delta), order, float(basic_epsilon), float(basic_delta))


def check_delta_for(delta: float, num_records: int) -> None:
    """Check that delta is well below 1 / ``num_records``: the publication of randomly chosen records is (0, delta)-DP.

    Raises:
        InvalidInput: ``invalid_delta``: delta is above 1 / (10 num_records).
    """
    check_delta(delta)
    most = 1 / (10 * max(1, num_records))
    if delta > most:
        raise InvalidInput(
            f"delta is {decimal(delta)}, too large for {num_records:,} records: use at most 1 / (10 * records), "
            f"{decimal(most, 2)}",
            code=codes.INVALID_DELTA,
        )


def change_cap(cap: Cap, epsilon: float) -> Cap:
    """The cap with another epsilon and the same order.

    Raises:
        InvalidInput: ``budget_too_small``: at this epsilon, the order allows no charge.
    """
    check_epsilon(epsilon)
    changed = Cap(float(epsilon), cap.delta, cap.order, cap.basic_epsilon, cap.basic_delta)
    if not (epsilon > cap.basic_epsilon and changed.divergence > 0.0):
        raise _too_small(epsilon, cap.delta, f" at order {cap.order}, which is fixed for this ledger")
    return changed


def choose_order(epsilon: float, delta: float, use: Use) -> int:
    """The whole order at which (epsilon, delta) allows most of its intended use.

    For `Use.STATISTICS` and `Use.MIXED`, this is the order that allows the smallest Gaussian noise. Training whose
    noise is calibrated to the budget needs the least noise at the same order, so it loses nothing. For `Use.TRAINING`,
    this is the order that allows the most rounds of z = 1 on samples of 1%.

    Raises:
        InvalidInput: ``budget_too_small``.
    """
    yardstick = curve(PoissonSampledGaussian(0.01, 1.0, 1) if use is Use.TRAINING else Gaussian(10.0))
    num_rounds = {
        order: divergence_within(epsilon, delta, order) / yardstick[index_of(order)] for order in WHOLE_ORDERS
    }
    best = max(num_rounds, key=lambda order: num_rounds[order])
    if num_rounds[best] <= 0.0:
        raise _too_small(epsilon, delta, "")
    return best


def cost_of(events: Iterable[Event]) -> Cost:
    """The cost of events, from their declared parameters only."""
    total, basic_epsilon, basic_delta = zero_curve(), 0.0, 0.0
    for event in events:
        if isinstance(event, ApproximateDp):
            basic_epsilon += event.epsilon
            basic_delta += event.delta
        else:
            total += curve(event)
    return Cost(total, basic_epsilon, basic_delta)


def is_within(spent: Spending, cost: Spending, cap: Cap) -> bool:
    """Whether the cap allows the cost in addition to what is spent. It allows no cost that is not a finite number."""
    return (
        _fits(spent.divergence, cost.divergence, cap.divergence)
        and _fits(spent.basic_epsilon, cost.basic_epsilon, cap.basic_epsilon)
        and _fits(spent.basic_delta, cost.basic_delta, cap.basic_delta)
    )


def check(dataset: tuple[Spending, Cap], user: tuple[Spending, Cap], cost: Cost) -> Accepted | Rejected:
    """Whether a charge is allowed: it must be within the cap of the dataset and within the cap of the user."""
    spent, cap = dataset
    if not is_within(spent, cost.at(cap.order), cap):
        return Rejected(BudgetRefusal.DATASET_EXHAUSTED)
    spent, cap = user
    if not is_within(spent, cost.at(cap.order), cap):
        return Rejected(BudgetRefusal.USER_EXHAUSTED)
    return Accepted()


def epsilon_spent(cost: Cost, cap: Cap) -> float:
    """The part of a cap that ``cost`` uses, in the cap's own epsilon: used and left add up to ``cap.epsilon``.

    It is the share of the divergence that the cap allows at its order, so the cost of a job does not depend on earlier
    charges. It is not the guarantee of these events by themselves, which is `epsilon_of` of their curve.
    """
    return in_epsilon(cost.at(cap.order), cap)


def in_epsilon(spent: Spending, cap: Cap) -> float:
    """As `epsilon_spent`, of sums at the order of the cap."""
    return spent.divergence / cap.divergence * (cap.epsilon - cap.basic_epsilon) + spent.basic_epsilon


def epsilon_left(cost: Cost, cap: Cap) -> float:
    """The part of a cap that ``cost`` leaves, in the cap's own epsilon; 0 if the cost is more than the cap allows."""
    return max(0.0, cap.epsilon - epsilon_spent(cost, cap))


def count_fitting(spent: Spending, cost: Spending, cap: Cap) -> int | None:
    """How many charges of this cost a cap allows in addition to what is spent; None: they cost nothing."""
    rest = (
        (cap.divergence - spent.divergence, cost.divergence),
        (cap.basic_epsilon - spent.basic_epsilon, cost.basic_epsilon),
        (cap.basic_delta - spent.basic_delta, cost.basic_delta),
    )
    counts = [max(0, math.floor(left / each)) for left, each in rest if each > 0.0]
    return min(counts) if counts else None


def _fits(spent: float, cost: float, allowed: float) -> bool:
    # A cost of zero is within a cap of zero.
    return (math.isfinite(cost) and cost >= 0.0) and (cost == 0.0 or spent + cost <= allowed)


def _too_small(epsilon: float, delta: float, where: str) -> InvalidInput:
    return InvalidInput(
        f"a budget of epsilon {decimal(epsilon)} at delta {decimal(delta)} allows no charge{where}: choose a larger "
        "budget",
        code=codes.BUDGET_TOO_SMALL,
    )
