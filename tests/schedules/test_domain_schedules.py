"""The services of devices under schedules: SQLite and files in memory, virtual time, a drawn order of the event loop.

Should happen: with crashes, failed commits and lost answers, each 200 is in exactly one checkpoint, and each process
ends. Should not happen: a database that answers without a commit passes; two runs of a seed differ.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schedules.domain import Place, play_domain
from schedules.kernel import Broken

SEEDS = range(60)
FAILED_SEEDS = {
    5: "the answer of a commit that changed a cycle was lost, and the scheduler did not notice the change",
    19: "the same, with another commit",
    28: "the same, with another commit",
    72: "the answer of an acquired lease was lost, and the cycle was completed only after a restart",
}
"""Seeds that once failed. A change to the model changes what they mean."""
CPU_S = 4.0
"""Processor time after which no schedule begins."""
LEAST = 15


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="pygrid-schedules-", dir=memory if memory.is_dir() else None))
    place = Place(root)
    yield place
    place.close()
    shutil.rmtree(root)


def broken_by(seed: int, place: Place) -> Broken | None:
    try:
        play_domain(random.Random(seed).random, place)
    except Broken as broken:
        return broken
    return None


def test_no_schedule_of_the_domain_breaks_an_invariant(place, count_schedules):
    began, num = time.process_time(), 0
    for seed in (*FAILED_SEEDS, *SEEDS):
        broken = broken_by(seed, place)
        assert broken is None, f"seed {seed}: {broken}"
        num += 1
        if time.process_time() - began > CPU_S:
            break
    assert num >= LEAST
    count_schedules(num)


def test_a_database_that_lies_is_found(place):
    place.database.lies = random.Random(0).random
    try:
        found = next(broken for seed in SEEDS if (broken := broken_by(seed, place)) is not None)
    finally:
        place.database.lies = None
    assert found.invariant
