"""How long a private job may take, and when its result may be seen: decided before the data is read.

Time is an answer, too. Three rules keep it from revealing anything about a record:

1. **The values change the time of no operator by much.** Denormal numbers count as zero (`denormals`), and a plan with
   an operator that loops over a value (``Mod`` with ``fmod``) is refused. The other operators vary by a factor of
   `VARIATION` at most; ``benchmarks/operator_times.py`` measures it for each operator. Those that vary by more (powers,
   remainders, sines, maxima with their places) and reads of large tables at places that data decides are counted from
   the graph. Their longest time is part of the usual cost.
2. **A limit for each evaluation.** An evaluation that takes more than `TimePlan.limit_s` of CPU time is ended and
   counts as zero, for its own unit and no other. The limit follows from an evaluation of made-up data on this machine,
   never from the data. It is longer than any values take in a cold cache, so that no unit depends on the one before.
3. **The result is held until `TimePlan.planned_s`**: enough for every unit at `VARIATION` times the usual cost, and for
   one unit that uses its whole limit each time. No deadline leaves units out: a job whose units could not all use their
   limit within the job's time is refused before it starts (``job_too_slow``).

CPU time, not wall-clock time, decides about a unit, so that other processes on the machine do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from pygrid import codes
from pygrid.compute.runtime.contributions import Contributions
from pygrid.compute.runtime.watch import Watch, measure
from pygrid.core.job_spec import JobSpec, PrivacyTerms, max_evaluations, max_participations, unit_limit_s
from pygrid.errors import InvalidInput
from pygrid.privacy.mechanisms import GaussianSum

VARIATION = 3.0
"""How many times the usual CPU time an evaluation may take because of its values."""
LEAST_LIMIT = 4.0
"""The smallest limit of an evaluation, in times of its usual CPU time."""
_TIME_FOR_UNITS = 0.8
"""Share of a job's time that is meant for evaluations; the rest is for the start, the noise and the answer."""
_START_S = 0.15
_STEP_S = 0.25


@dataclass(frozen=True)
class TimePlan:
    """The times of a private job, fixed before its data is read."""

    unit_s: float
    """CPU seconds that an evaluation usually takes."""
    limit_s: float
    """CPU seconds after which an evaluation counts as zero."""
    planned_s: float
    """Seconds after the start of the job before which nobody sees its result."""


def make_time_plan(terms: PrivacyTerms, num_units: int, unit_s: float, round_s: float, left_s: float) -> TimePlan:
    """The times of a job.

    Args:
        unit_s: see `Contributions.unit_s`.
        round_s: CPU seconds for the noise and the step of a round.
        left_s: seconds that are left of the job's time.
    Raises:
        InvalidInput: ``job_too_slow``: the evaluations of this job can't all have a limit of `LEAST_LIMIT` times their
            cost.
    """
    if terms.unit == "domain":
        limit_s = min(2 * VARIATION * unit_s, _TIME_FOR_UNITS * left_s)
        return TimePlan(unit_s, limit_s, _rounded_up(_START_S + limit_s + terms.rounds * round_s))
    evaluations = max_evaluations(terms, num_units)
    limit_s = min(unit_limit_s(unit_s), _TIME_FOR_UNITS * left_s / max(1, evaluations))
    if limit_s < LEAST_LIMIT * unit_s:
        raise InvalidInput(
            f"the job needs up to {evaluations:,} evaluations of {unit_s:.2g} s each, and each must be able to take "
            f"{LEAST_LIMIT:g} times as long; that is more than the {left_s:,.0f} s that the job may take. Use fewer "
            "epochs, a smaller sampling rate or a smaller model, or ask the operator to raise PYGRID_JOB_WALL_S",
            code=codes.JOB_TOO_SLOW,
        )
    more_s = max_participations(terms) * limit_s
    return TimePlan(unit_s, limit_s, _planned_s(terms, num_units, unit_s, round_s, more_s))


def _planned_s(terms: PrivacyTerms, num_units: int, unit_s: float, round_s: float, more_s: float = 0.0) -> float:
    usual_s = max_evaluations(terms, num_units) * unit_s + terms.rounds * round_s
    return _rounded_up(_START_S + VARIATION * usual_s + more_s)


def _rounded_up(seconds: float) -> float:
    return math.ceil(seconds / _STEP_S) * _STEP_S


class RunSchedule:
    """Makes the `TimePlan` of one job, and announces it.

    Args:
        started: when the job's time began, by the monotonic clock.
        announce: called once with `TimePlan.planned_s`, before the data is read.
    """

    def __init__(self, spec: JobSpec, started: float, announce: Callable[[float], None]) -> None:
        self._wall_s, self._started, self._announce = spec.limits.wall_s, started, announce
        self.unit_s = 0.0
        """CPU seconds of an evaluation; 0 before `begin`."""

    def begin(self, terms: PrivacyTerms, contributions: Contributions) -> Watch:
        """The watch over a job's evaluations. Raises as `make_time_plan`."""
        size, unit_s = contributions.size, contributions.unit_s()
        round_s = measure(lambda: GaussianSum(size, terms.clip, terms.noise_multiplier).finish())
        left_s = self._wall_s - (time.monotonic() - self._started)
        if contributions.is_trusted:
            plan = TimePlan(unit_s, math.inf, _planned_s(terms, contributions.num_units, unit_s, round_s))
        else:
            plan = make_time_plan(terms, contributions.num_units, unit_s, round_s, left_s)
        self.unit_s = plan.unit_s
        self._announce(plan.planned_s)
        return Watch(plan.limit_s)
