"""The privacy terms of requests, and the unit that they protect."""

from __future__ import annotations

from collections.abc import Sequence

from pygrid import codes
from pygrid.client.datasets import Dataset
from pygrid.errors import InvalidInput
from pygrid.messages.jobs import PrivacyRequest, StatisticRequest, Unit


def protected_unit(dataset: Dataset) -> Unit:
    """The unit that a budget of this dataset protects, unless its owner chose ``domain``."""
    return "record" if dataset.schema.subject is None else "subject"


def privacy_terms(
    epsilon: float | None, delta: float | None, clip: float, unit: Unit | Dataset, sampling_rate: float | None
) -> PrivacyRequest | None:
    """The privacy terms of a request; None: the job is non-private.

    Args:
        unit: of a dataset: the unit that its budget protects.
    Raises:
        InvalidInput: one of epsilon and delta is missing (``invalid_privacy``).
    """
    check_guarantee(epsilon, delta)
    if epsilon is None or delta is None:
        return None
    chosen = unit if isinstance(unit, str) else protected_unit(unit)
    return PrivacyRequest(epsilon, delta, clip, chosen, sampling_rate)


def check_guarantee(epsilon: float | None, delta: float | None) -> None:
    """Check that a request has both numbers of the guarantee, or none.

    Raises:
        InvalidInput: one of epsilon and delta is missing (``invalid_privacy``).
    """
    if (epsilon is None) != (delta is None):
        missing = "epsilon" if epsilon is None else "delta"
        raise InvalidInput(
            f"{missing} is missing: a private job needs both, like epsilon=3.0, delta=1e-6 (delta well below one over "
            "the number of records); a non-private job has neither, and always waits for a person",
            code=codes.INVALID_PRIVACY,
        )


def statistic_requests(asked: Sequence[StatisticRequest] | StatisticRequest) -> tuple[StatisticRequest, ...]:
    """The requested statistics as a tuple. Raises InvalidInput: another value is among them."""
    several = (asked,) if isinstance(asked, StatisticRequest) else tuple(asked)
    for one in several:
        if not isinstance(one, StatisticRequest):
            raise InvalidInput(
                f"{one!r} is not a statistic; use pygrid.client.count(), mean(column, lower=..., upper=...), ...",
                code=codes.INVALID_JOB,
            )
    return several
