"""Runs schedules: one seed, many seeds, and the shortest trace of a failure."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from schedules.cycles import Cycles
from schedules.garbage import Garbage
from schedules.jobs import Jobs
from schedules.kernel import Broken, Draw, Kernel
from schedules.mutants import Mutant

MAX_FAULTS = 5
FAULTS_WITHIN = 120
"""The adversary acts before one of the first this many steps."""
MAX_TRIES = 800
"""Shorter schedules that are tried for a failure."""


class Model(Protocol):
    """A world of actors, made of a kernel and a mutant."""

    def __init__(self, kernel: Kernel, mutant: Mutant | None) -> None: ...

    def fault(self, kind: float, size: float) -> None:
        """What the adversary does once; both numbers are from 0 to 1."""

    def check(self) -> None:
        """Raises Broken: an invariant does not hold at the end."""


MODELS: Sequence[type[Model]] = (Cycles, Jobs, Garbage)
"""The model of a seed is that at its remainder."""


class Tape:
    """The numbers of a schedule; after the last one, only zeros: nothing fails any more.

    Args:
        numbers: those to replay.
        more: draws numbers after them, which are added to the tape.
    """

    def __init__(self, numbers: Sequence[float] = (), more: Draw | None = None) -> None:
        self.numbers = list(numbers)
        self._more = more
        self._next = 0

    def __call__(self) -> float:
        if self._next == len(self.numbers):
            if self._more is None:
                return 0.0
            self.numbers.append(self._more())
        self._next += 1
        return self.numbers[self._next - 1]


@dataclass(frozen=True)
class Outcome:
    """What one schedule did."""

    broken: Broken | None
    trace: tuple[str, ...]


def play(draw: Draw, model: type[Model], mutant: Mutant | None = None, *, is_traced: bool = False) -> Outcome:
    """Run one schedule."""
    kernel = Kernel(draw, is_traced=is_traced)
    broken = None
    try:
        world = model(kernel, mutant)
        steps = sorted(int(draw() * FAULTS_WITHIN) + 1 for _ in range(int(draw() * (MAX_FAULTS + 1))))
        kernel.run([(step, partial(world.fault, draw(), draw())) for step in steps])
        world.check()
    except Broken as error:
        broken = error
    except Exception as error:
        broken = Broken("no step fails", f"{kernel.current.name}: {error!r}")
    finally:
        kernel.close()
    return Outcome(broken, tuple(kernel.trace or ()))


def model_of(seed: int) -> type[Model]:
    """The model that a seed drives."""
    return MODELS[seed % len(MODELS)]


def play_seed(seed: int, mutant: Mutant | None = None, *, is_traced: bool = False) -> Outcome:
    """Run the schedule of a seed."""
    return play(random.Random(seed).random, model_of(seed), mutant, is_traced=is_traced)


@dataclass(frozen=True)
class Run:
    """What many schedules did."""

    num_schedules: int
    cpu_s: float
    failures: tuple[tuple[int, Broken], ...]
    """The seeds that broke an invariant."""


def play_seeds(
    seeds: Iterable[int], mutant: Mutant | None = None, *, cpu_s: float = float("inf"), max_failures: int = 10
) -> Run:
    """Run the schedules of seeds, until enough have failed or the time is used up.

    Args:
        cpu_s: seconds of processor time after which no schedule begins.
    """
    began, num, failures = time.process_time(), 0, []
    for seed in seeds:
        if len(failures) >= max_failures or time.process_time() - began > cpu_s:
            break
        num += 1
        broken = play_seed(seed, mutant).broken
        if broken is not None:
            failures.append((seed, broken))
    return Run(num, time.process_time() - began, tuple(failures))


def shorten(seed: int, mutant: Mutant | None = None) -> Outcome:
    """The shortest schedule that was found to break the same invariant as the schedule of a seed.

    It replaces numbers by zeros, the quiet choice, and cuts numbers out, as long as that makes the trace shorter.
    """
    model = model_of(seed)
    tape = Tape((), random.Random(seed).random)
    best = play(tape, model, mutant, is_traced=True)
    if best.broken is None:
        return best
    numbers, num_tries = tape.numbers, 0
    size = max(1, len(numbers) // 2)
    while size and num_tries < MAX_TRIES:
        start, has_changed = 0, False
        while start < len(numbers) and num_tries < MAX_TRIES:
            before, after = numbers[:start], numbers[start + size :]
            zeros = [0.0] * len(numbers[start : start + size])
            for candidate in (before + after, before + zeros + after):
                if candidate == numbers:
                    continue
                num_tries += 1
                tried = play(Tape(candidate), model, mutant, is_traced=True)
                same = tried.broken is not None and tried.broken.invariant == best.broken.invariant
                if same and _effort(candidate, tried) < _effort(numbers, best):
                    numbers, best, has_changed = candidate, tried, True
                    break
            else:
                start += size
        if not has_changed:
            size //= 2
    return best


def _effort(numbers: Sequence[float], outcome: Outcome) -> tuple[int, int, int]:
    return len(outcome.trace), sum(number != 0.0 for number in numbers), len(numbers)
