"""Processes and datasets that their owner pauses, deletes or renames, through the SDK and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pygrid.client import connect
from pygrid.errors import Conflict, Forbidden, NotFound
from support.sdk import PASSWORD, host, owner_of, running_domain


def test_a_process_is_paused_resumed_and_deleted(tmp_path: Path) -> None:
    with running_domain(tmp_path) as transport:
        owner = owner_of(transport)
        process = host(owner)
        assert process.pause().state == "paused"
        assert process.resume().state == "active"
        owner.users.add("bob@example.org", PASSWORD, "Model Owner")
        bob = connect(transport=transport).login("bob@example.org", PASSWORD)
        with pytest.raises(Forbidden, match="only they and Owners"):
            bob.process("logistic").delete()
        assert process.info().state == "active"
        process.delete()
        with pytest.raises(NotFound):
            process.info()
        assert host(bob).id > process.id


def test_a_renamed_dataset_keeps_its_jobs_and_its_budget(tmp_path: Path) -> None:
    with running_domain(tmp_path) as transport:
        owner = owner_of(transport)
        ages = owner.datasets.upload("ages", {"age": np.arange(50, dtype=np.float32)}, visibility="listed")
        ages.policy(epsilon=10.0, delta=1e-6, epsilon_per_user=5.0)
        owner.datasets.upload("others", {"age": np.arange(50, dtype=np.float32) + 1}, visibility="listed")
        with pytest.raises(Conflict):
            ages.rename("others")
        assert ages.rename("years").name == "years"
        assert ages.budget().policy.epsilon == 10.0
        with pytest.raises(NotFound):
            owner.datasets["ages"]
        assert owner.datasets["years"].id == ages.id
        owner.users.add("bob@example.org", PASSWORD, "Administrator")
        bob = connect(transport=transport).login("bob@example.org", PASSWORD)
        with pytest.raises(Forbidden):
            bob.datasets["years"].rename("mine")
