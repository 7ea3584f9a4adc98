"""What happens to a job whose process was lost.

Should happen: a result that is there is stored; a non-private job starts once more. Should not happen: a private job
starts twice, or costs nothing although a Worker may have received it.
"""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import replace

import pytest

from pygrid.core.job_spec import PrivacyTerms
from pygrid.core.jobs import MAX_ATTEMPTS, JobRecord, JobState
from pygrid.core.takeovers import LeftBehind, TakeOver, take_over
from pygrid.messages.jobs import JobRequest

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
EXACT = JobRecord(
    id="a" * 32,
    dataset_id=1,
    version_id=1,
    state=JobState.RUNNING,
    request=JobRequest(dataset=1, kind="train", reason="to learn"),
    request_hash="e" * 64,
    requested_by=7,
    plan_id="",
    plan_name="",
    plan_summary="",
    model_hash="",
    terms=None,
    created_at=NOW,
    updated_at=NOW,
    num_attempts=1,
)
PRIVATE = replace(EXACT, terms=PrivacyTerms(clip=1.0, noise_multiplier=1.0, rounds=1, delta=1e-6, expected_size=10.0))


@pytest.mark.parametrize("job", [EXACT, PRIVATE], ids=["exact", "private"])
@pytest.mark.parametrize(("has_begun", "is_worker_alive"), list(itertools.product([False, True], repeat=2)))
def test_a_result_and_a_live_worker_come_first(job, has_begun, is_worker_alive):
    left = LeftBehind(has_result=True, has_begun=has_begun, is_worker_alive=is_worker_alive)
    assert take_over(job, left) is TakeOver.FINISH
    assert take_over(job, LeftBehind(False, has_begun, is_worker_alive=True)) is TakeOver.WAIT


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_non_private_job_starts_once_more(has_begun):
    assert take_over(EXACT, LeftBehind(False, has_begun)) is TakeOver.START_AGAIN
    assert take_over(replace(EXACT, num_attempts=MAX_ATTEMPTS), LeftBehind(False, has_begun)) is TakeOver.FAIL


def test_a_private_job_never_starts_twice():
    assert take_over(PRIVATE, LeftBehind(False, has_begun=True)) is TakeOver.FAIL
    assert take_over(PRIVATE, LeftBehind(False, has_begun=False)) is TakeOver.PUT_BACK
