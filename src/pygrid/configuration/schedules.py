"""A value for each cycle: how a hyperparameter, another setting of devices or the server's rate changes.

    constant       start
    step           start * factor ^ floor((cycle - 1) / every)
    exponential    start * factor ^ (cycle - 1)
    cosine         end + (start - end) * (1 + cos(pi * (cycle - 1) / (cycles - 1))) / 2, then end
    list           values[cycle - 1], then the last one

Cycles count from 1. A value depends on nothing else, so each device of a cycle, and each run, gets the same one.

Source of cosine: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pygrid.configs import Config, FieldFault, Spec, find_near, listed

SERVER_RATE = "server_optimizer.learning_rate"
WHOLE_NUMBERS = ("epochs", "batch_size", "max_updates")
ENDLESS = 10**9
"""The last cycle for which the schedules of a process without ``num_cycles`` are checked."""
_MOST = 1e9

_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("start",), ()),
    "step": (("start", "factor", "every"), ("end",)),
    "exponential": (("start", "factor"), ("end",)),
    "cosine": (("start", "end", "cycles"), ()),
    "list": (("values",), ()),
}
"""Required and optional fields of each kind."""


class Schedule(Config, frozen=True, kw_only=True):
    """A value for each cycle. In ``schedules``, a number is a constant and a list is a schedule of kind ``list``."""

    name: Annotated[Literal["constant", "step", "exponential", "cosine", "list"], Spec("cosine")]
    """Kind of the schedule."""
    start: Annotated[float | None, Spec(0.3, -_MOST, _MOST)] = None
    """All kinds but ``list``: the value of the first cycle."""
    end: Annotated[float | None, Spec(0.01, -_MOST, _MOST)] = None
    """``cosine``: the last value. ``step``, ``exponential``: the value stays there once it is reached; null: no end."""
    factor: Annotated[float | None, Spec(0.5, 1e-6, 1e6)] = None
    """``step``, ``exponential``: factor of each change. Above 1, it needs ``end``."""
    every: Annotated[int | None, Spec(10, 1, 1_000_000)] = None
    """``step``: number of cycles between two changes."""
    cycles: Annotated[int | None, Spec(100, 2, 1_000_000)] = None
    """``cosine``: the cycle that reaches ``end``."""
    values: Annotated[tuple[float, ...] | None, Spec([0.3, 0.1, 0.03], -_MOST, _MOST)] = None
    """``list``: the values of the first cycles, 1 to 10,000 of them; later cycles have the last one."""

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        required, optional = _FIELDS[self.name]
        for field in required:
            if getattr(self, field) is None:
                yield FieldFault(field, f"is required with {self.name!r}")
        for field in given:
            if field not in ("name", *required, *optional) and getattr(self, field) is not None:
                used = listed([kind for kind, (needs, may) in _FIELDS.items() if field in (*needs, *may)])
                yield FieldFault(field, f"has no effect with {self.name!r}; it belongs to {used}")
        if self.values is not None and not 1 <= len(self.values) <= 10_000:
            yield FieldFault("values", f"has {len(self.values)} values; use 1 to 10,000")
        if (self.factor or 0.0) > 1 and self.end is None and "factor" in required:
            yield FieldFault("factor", "is above 1, so the value grows without limit: set end")

    def value(self, cycle: int) -> float:
        """The value of a cycle, counted from 1."""
        match self.name:
            case "list":
                assert self.values is not None
                return self.values[min(cycle, len(self.values)) - 1]
            case "cosine":
                assert self.start is not None and self.end is not None and self.cycles is not None  # noqa: PT018
                share = min(cycle - 1, self.cycles - 1) / (self.cycles - 1)
                return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2
            case "constant":
                assert self.start is not None
                return self.start
        assert self.start is not None
        return self._limited(_grown(self.start, self.factor or 1.0, (cycle - 1) // (self.every or 1)))

    def _limited(self, value: float) -> float:
        if self.end is None or self.start is None:
            return value
        return max(value, self.end) if self.end <= self.start else min(value, self.end)


Scheduled = Schedule | tuple[float, ...] | float


def _grown(start: float, factor: float, num_changes: int) -> float:
    try:
        return start * math.pow(factor, num_changes)
    except OverflowError:
        return math.copysign(math.inf, start) if start else 0.0


def as_schedule(given: Scheduled) -> Schedule:
    if isinstance(given, Schedule):
        return given
    return Schedule(name="list", values=given) if isinstance(given, tuple) else Schedule(name="constant", start=given)


def value_of(name: str, given: Scheduled, cycle: int) -> float | int:
    """The value of a setting in a cycle; counts are rounded."""
    value = as_schedule(given).value(cycle)
    return max(1, round(value)) if name in WHOLE_NUMBERS else value


def values_at(schedules: Mapping[str, Scheduled], cycle: int) -> dict[str, float | int]:
    return {name: value_of(name, given, cycle) for name, given in schedules.items()}


def find_schedule_faults(
    schedules: Mapping[str, Scheduled],
    num_cycles: int,
    client_config: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]],
) -> Iterator[FieldFault]:
    """Yield the faults of schedules: an unknown name, a value that is also in ``client_config``, one out of its range.

    Args:
        num_cycles: number of cycles of the process; 0: unlimited.
        ranges: smallest and largest value of each setting that can be scheduled.
    """
    last = num_cycles or ENDLESS
    for name, given in schedules.items():
        field = f"schedules.{name}"
        if name not in ranges:
            near = find_near(name, ranges)
            meant = f"did you mean {near!r}? " if near else ""
            text = f"server_config.{field} belongs to no setting; {meant}use {listed(sorted(ranges))}"
            yield FieldFault(field, text)
            continue
        if client_config.get(name) is not None:
            yield FieldFault(field, f"server_config.{field} is in client_config, too; use one of them")
        low, high = ranges[name]
        for cycle in _cycles_to_check(as_schedule(given), last):
            value = value_of(name, given, cycle)
            if not low <= value <= high:
                text = f"server_config.{field} is {value:g} in cycle {cycle}; it must be from {low:g} to {high:g}"
                yield FieldFault(field, text)
                break


def _cycles_to_check(schedule: Schedule, last: int) -> Iterator[int]:
    """All kinds but ``list`` are monotonous, so the first and the last cycle have the extreme values."""
    if schedule.values is not None:
        yield from range(1, min(last, len(schedule.values)) + 1)
    else:
        yield 1
        yield last
