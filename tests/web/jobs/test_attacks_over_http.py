"""The plans of a malicious scientist against a Domain whose policy approves private jobs, over HTTP.

Should happen: what is released about two datasets that differ in one record differs by what one record and the noise
explain. Should not happen: a record decides what all other records contribute, because it fails, or because it moves
them by one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pygrid.plans import Plan
from pygrid.tensors import decode, encode
from support.jobs import Person, Site
from support.plans.attacks import MARK, MODEL, fallback_plan, position_plan

NUM_RECORDS = 128
TERMS = {"epsilon": 3.0, "delta": 1e-6, "clip": 1.0}
ONE_RECORD = 2.0
"""By so much a replaced record moves the sum at most: from -clip to clip.

An attack that works moves it by about 250.
"""

Keys = npt.NDArray[np.int64]


def _with_a_failing_record() -> tuple[Keys, Keys]:
    usual = np.arange(NUM_RECORDS) % 10
    marked = usual.copy()
    marked[60] = MARK
    return usual, marked


def _with_all_records_moved() -> tuple[Keys, Keys]:
    places = np.arange(NUM_RECORDS + 1)
    return places[:-1], places[1:]


async def _begin(site: Site, name: str, keys: Keys, plan: Plan) -> str:
    """The id of a job of one round over all records of a new dataset."""
    arrays = {"x": np.zeros((NUM_RECORDS, 1), np.float32), "y": keys}
    dataset = await site.owner.upload(name, arrays=arrays)
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(
        dataset,
        plan=plan.data,
        model=encode(MODEL),
        binding={"x": "x", "y": "y"},
        batch_size=NUM_RECORDS,
        hyper={"lr": 1.0},
        privacy=TERMS,
    )
    return str(job["id"])


async def _noisy_sum(scientist: Person, job_id: str) -> tuple[float, dict[str, Any]]:
    """The sum of clipped contributions with its noise, as the released model tells it; and the job."""
    job = await scientist.wait(job_id, "released")
    trained, _ = decode((await scientist.result(job_id)).content)
    return -NUM_RECORDS * float(trained["w"][0]), job


@pytest.mark.parametrize(
    ("make_plan", "neighbors"),
    [
        pytest.param(fallback_plan, _with_a_failing_record(), id="fallback"),
        pytest.param(position_plan, _with_all_records_moved(), id="position"),
    ],
)
async def test_the_sums_of_neighboring_datasets_differ_by_one_record_and_noise(
    make_plan: Callable[[], Plan], neighbors: tuple[Keys, Keys], site: Site
) -> None:
    plan = make_plan()
    jobs = [await _begin(site, f"neighbor-{number}", keys, plan) for number, keys in enumerate(neighbors)]
    (one, job), (other, _) = [await _noisy_sum(site.scientist, job_id) for job_id in jobs]
    # Two independent draws of noise of std z x clip: their difference has sqrt(2) z. It exceeds 6 of its standard
    # deviations with probability 2e-9.
    noise_std = math.sqrt(2) * job["cost"]["noise_multiplier"] * TERMS["clip"]
    tolerance = ONE_RECORD + 6 * noise_std
    assert tolerance < NUM_RECORDS, "the noise would hide an attack that works"
    assert one != other, "each sum has noise of its own"
    assert abs(one - other) <= tolerance
