"""Sentences about privacy, for the console, the SDK and the command line alike."""

from __future__ import annotations

import math

from pygrid.units import chance

_CONTENTS = {
    "record": "a record has",
    "subject": "the records of a person have",
    "domain": "the whole data of this Domain has",
}


def best_guess(epsilon: float, prior: float = 0.5) -> float:
    """The largest probability that an observer of a release can assign to the right one of two contents of a unit.

    Holds up to delta.

    Args:
        prior: the probability that the observer assigned to the right content before the release.
    Source: the definition of differential privacy, by Bayes' rule.
    """
    odds = prior / (1.0 - prior) * math.exp(min(epsilon, 700.0))
    return odds / (1.0 + odds)


def explain_epsilon(epsilon: float, delta: float, unit: str = "record") -> str:
    """Return what a guarantee means for somebody who tries to learn about one unit.

    Args:
        unit: ``record``, ``subject`` or ``domain``.
    Source: `best_guess`.
    """
    return (
        f"Somebody who is 50% sure which of two contents {_CONTENTS.get(unit, _CONTENTS['record'])} can become at most "
        f"{sure(epsilon)} sure, except with a probability of {chance(delta)}."
    )


def sure(epsilon: float) -> str:
    """Return the highest certainty that somebody can reach from 50%, as a percentage; below 100% at every epsilon."""
    left = 100.0 / (1.0 + math.exp(min(epsilon, 700.0)))
    if left >= 1.0:
        return f"{100.0 - left:.0f}%"
    if left < 1e-6:
        return "over 99.999999%"
    digits = math.ceil(-math.log10(left))
    return f"{100.0 - math.ceil(left * 10**digits) / 10**digits:.{digits}f}%"
