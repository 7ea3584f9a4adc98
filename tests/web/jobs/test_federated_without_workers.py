"""A Domain that can start no Worker for a while, in the middle of a training across Domains.

Should happen: it tries again, and takes part as soon as it can.
Should not happen: a cycle that was paid for and is used up although no Worker has begun.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_federated_jobs import charges_of, parts_of

from pygrid.compute.local import LocalDriver
from pygrid.errors import Unavailable
from support.eventually import eventually
from support.federation import PRIVATE, running_town


async def test_no_cycle_is_used_up_while_no_worker_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.training import gate_in_process

    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    num_refused = 0

    async def none_there(_driver: LocalDriver) -> None:
        nonlocal num_refused
        num_refused += 1
        raise Unavailable("the test has no Workers", code="worker_not_started")

    async with running_town(tmp_path, "alice") as town:
        job = await town.submit("alice", 2, **PRIVATE)
        await town.wait("alice", job, "running")
        with monkeypatch.context() as patch:
            patch.setattr(LocalDriver, "start", none_there)
            await town.hub.host(min_workers=1, min_diffs=1, max_diffs=1, num_cycles=2)
            await eventually(lambda: num_refused >= 8)
            waiting = await town.sites["alice"].owner.job(job["id"])
            assert (waiting["state"], waiting["federation"]["num_begun"]) == ("running", 0), waiting
        ended = await town.wait("alice", job, "released")
        assert (ended["federation"]["num_begun"], ended["federation"]["num_reported"]) == (2, 2)
    assert parts_of(tmp_path, "alice") == [(1, "reported"), (2, "reported")]
    assert [state for state, _ in charges_of(tmp_path, "alice")] == ["released"]
