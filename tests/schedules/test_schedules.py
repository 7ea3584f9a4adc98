"""The replicated design under schedules: no seed breaks an invariant, and each mutant of the design is found.

Should happen: each 200 is in exactly one checkpoint, once; one checkpoint a cycle; everything ends. Should not happen:
a report after a 410 counts; a mutant passes 2,000 seeds; a failure without a trace.
"""

from __future__ import annotations

import pytest

from schedules import __main__ as program
from schedules.failed_seeds import FAILED_SEEDS
from schedules.mutants import Mutant
from schedules.running import MODELS, Tape, model_of, play, play_seed, play_seeds, shorten

PARTS = 4
"""The seeds are divided, so that several processes can run them."""
SEEDS = range(20_000)
CPU_S = 2.75
"""Processor time of a part. A slow machine runs fewer schedules, and the summary of the tests shows how many."""
LEAST = 500
"""A part that runs fewer schedules shows nothing."""
WITHIN = 2000
"""A mutant is found within this many seeds."""


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_breaks_an_invariant(part, count_schedules):
    done = play_seeds(SEEDS[part::PARTS], cpu_s=CPU_S)
    assert not done.failures, f"scripts/schedules --seed {done.failures[0][0]}"
    assert done.num_schedules >= LEAST
    count_schedules(done.num_schedules)


@pytest.mark.parametrize("seed", FAILED_SEEDS, ids=str)
def test_a_seed_that_once_failed_passes(seed):
    assert play_seed(seed).broken is None, FAILED_SEEDS[seed]


@pytest.mark.parametrize("mutant", Mutant, ids=lambda mutant: mutant.value)
def test_a_mutant_is_found(mutant):
    assert play_seeds(range(WITHIN), mutant, max_failures=1).failures


def test_a_seed_is_a_schedule():
    for seed in range(40):
        assert play_seed(seed, is_traced=True) == play_seed(seed, is_traced=True)


def test_zeros_are_a_schedule_without_a_fault():
    for model in MODELS:
        quiet = play(Tape(), model, is_traced=True)
        assert quiet.broken is None
        assert not any("crashes" in line or "paused" in line for line in quiet.trace)


def test_a_failure_is_printed_with_its_shortest_trace(capsys):
    mutant = Mutant.NO_FENCE
    [(seed, broken)] = play_seeds(range(WITHIN), mutant, max_failures=1).failures
    shortest, whole = shorten(seed, mutant), play_seed(seed, mutant, is_traced=True)
    assert shortest.broken is not None
    assert shortest.broken.invariant == broken.invariant == "one checkpoint a cycle"
    assert 0 < len(shortest.trace) < len(whole.trace)
    assert program.main(["--seed", str(seed), "--mutant", mutant.value]) == 1
    printed = capsys.readouterr().out
    assert f"seed {seed}, {model_of(seed).__name__}: {shortest.broken}" in printed
    assert "\n".join(shortest.trace) in printed
    assert program.main(["--seed", str(seed), "--mutant", mutant.value, "--trace"]) == 1
    assert "\n".join(whole.trace) in capsys.readouterr().out
    assert program.main(["--seed", str(seed)]) == 0
    assert "1 schedules, 0 broken" in capsys.readouterr().out
