"""A Domain that is killed while devices report.

Should happen: every acknowledged report is in exactly one checkpoint, once; devices carry on after each crash.
Should not: a report counted twice, one lost, one counted that was refused; a cycle that never ends.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import crash


@pytest.mark.slow
def test_no_acknowledged_report_is_lost_or_counted_twice_when_the_server_is_killed(tmp_path):
    result = asyncio.run(crash.run(tmp_path, num_kills=5, seed=1, size=4000))
    assert result.problems == []
    assert result.num_kills >= 5
    # The run has tested something: reports came in, several cycles were completed, and kills caught reports on their
    # way.
    assert result.num_acknowledged > 20
    assert result.num_checkpoints > 3
    assert result.num_retried > 0


def counted(*cycles: dict[int, int]) -> tuple[list[np.ndarray], list[int]]:
    """The checkpoints of a Domain that counts each mark as often as it is told, and the reports it speaks of."""
    models = [np.zeros(8, np.float32)]
    for cycle in cycles:
        diff = np.zeros(8)
        for mark, times in cycle.items():
            diff[mark] = times / len(cycle)
        models.append((models[-1] - diff).astype(np.float32))
    return [model.astype(np.float64) for model in models], [len(cycle) for cycle in cycles]


def marks(acknowledged=(), refused=(), unanswered=()) -> crash.Marks:
    return crash.Marks(8, set(acknowledged), set(refused), set(unanswered))


def test_the_count_accepts_what_is_promised():
    assert crash.find_problems(*counted({0: 1, 1: 1, 2: 1}, {3: 1, 4: 1}), marks([0, 1, 2, 3], [5], [4, 6])) == []


@pytest.mark.parametrize(
    ("cycles", "told", "problem"),
    [
        ([{0: 1, 1: 1}], marks([0, 1, 2]), "acknowledged mark 2 is in 0 checkpoints"),
        ([{0: 1, 1: 1}, {1: 1}], marks([0, 1]), "acknowledged mark 1 is in 2 checkpoints"),
        ([{0: 1, 1: 2, 2: 1}], marks([0, 1, 2]), "checkpoint 2 holds mark 1 2.0000 times"),
        ([{0: 1, 1: 1}], marks([0], refused=[1]), "refused mark 1 is in 1 checkpoints"),
        ([{0: 1, 1: 1}, {1: 1}], marks([0], unanswered=[1]), "unanswered mark 1 is in 2 checkpoints"),
        ([{0: 1, 1: 0}], marks([0]), "checkpoint 2 is said to hold 2 reports, and holds 1"),
    ],
)
def test_the_count_sees_every_broken_promise(cycles, told, problem):
    assert problem in crash.find_problems(*counted(*cycles), told)
