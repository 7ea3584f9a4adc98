"""Three replicas of a Domain behind HAProxy, on PostgreSQL and SeaweedFS, which fail while devices report and jobs run.

Should happen: every acknowledged report is in exactly one checkpoint; another replica leads after the leader has failed
in any way; a wrong clock changes nothing; what only the leader serves is refused elsewhere by a code; a planned restart
of each replica fails no request, and a later version can migrate the database meanwhile.
Should not: a report lost or counted twice; two leaders; a private job that is begun or released twice; a long request
that has to be repeated more than once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import failover

FAULTS = [
    "kill -9 of the leader",
    "SIGSTOP of the leader",
    "restart of PostgreSQL",
    "kill of the store",
    "replica cut off from PostgreSQL",
    "wrong clock of the leader",
]


@pytest.mark.slow
def test_all_promises_are_kept_through_six_faults(tmp_path: Path) -> None:
    result = asyncio.run(failover.run(tmp_path, seconds=0, seed=1, kinds=FAULTS, with_jobs=True))
    assert [fault.kind for fault in result.faults] == FAULTS
    assert result.problems == []
    assert result.crash.num_acknowledged > 8
    assert result.crash.num_checkpoints > 3
    assert result.jobs.total() > 0
    assert set(result.repeated) <= {0, 409, *failover.AWAY}


@pytest.mark.slow
def test_replicas_are_restarted_one_after_the_other_and_no_request_fails(tmp_path: Path) -> None:
    kinds = ["rolling restart on newer tables"]
    result = asyncio.run(failover.run(tmp_path, seconds=0, seed=2, kinds=kinds, with_jobs=False, drain_s=6))
    assert result.problems == []
    assert result.exit_codes == {0: 3}
    assert result.repeated == {}
    assert [fault.num_failed for fault in result.faults] == [0]
    assert result.long.failed == []
    assert result.long.num_answered > 8
    assert result.long.most_repeats <= 1
