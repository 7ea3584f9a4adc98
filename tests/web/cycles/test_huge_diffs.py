"""Diffs so large that a few of them would drive a model, or the state of a server optimizer, beyond what float32 holds.

Should happen: they count like others, and what comes of them is a number.
Should not happen: a checkpoint that holds infinity or NaN, which no client takes, for good; a process that ends because
of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.training import Site

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "sgd", "learning_rate": 1e6},
    {"name": "momentum"},
    {"name": "adagrad"},
    {"name": "adam"},
    {"name": "yogi"},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
async def test_no_client_drives_a_model_out_of_bounds(optimizer: dict[str, Any], site: Site) -> None:
    process = await site.host(max_diffs=1, num_cycles=6, server_optimizer=optimizer)
    enemy = await site.device(process)
    for cycle in range(1, 6):
        # The same way each time, and back at the end.
        await (await enemy.join(wait_s=10)).report(float(np.finfo(np.float32).max) * (-1 if cycle < 5 else 1))
        await site.until_completed(process, cycle)
        for name, array in (await site.checkpoint(process)).items():
            assert np.isfinite(array).all(), (name, cycle)
    await (await (await site.device(process)).join(wait_s=10)).report(0.5)
    await site.until_completed(process, 6)
    for array in (await site.checkpoint(process)).values():
        assert np.isfinite(array).all()
