"""The published syft.js 0.1.4 trains against a Domain.

Should happen: it is admitted, trains as PyTorch does, reports, and the next model is ``old - mean(diffs)``.
Should not happen: a client is admitted that cannot train; a refusal that the client does not understand.
"""

# ruff: noqa: F811 - fixtures
from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import jwt
import numpy as np
import pytest

from pygrid.client import connect
from pygrid.errors import Conflict
from pygrid.plans.dialects import list_program
from support.published_site import BATCH, PublishedSite, Subject, assert_same_diff, cnn, mlp, site  # noqa: F401 - fixtures
from support.pysyft import arrays, iterative_average, message, training_plan
from support.syftjs import needs_node, run_in_node, task

pytestmark = pytest.mark.slow


async def train_two(site: PublishedSite, subject: Subject, name: str, scheme: str = "http") -> None:
    """Two clients in Node train in one cycle."""
    folder = needs_node()
    await site.check_two(subject, name, partial(run_in_node, folder), scheme)


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_two_clients_train_an_mlp(site: PublishedSite, mlp: Subject, scheme: str) -> None:
    await train_two(site, mlp, "mlp", scheme)


async def test_two_clients_train_a_cnn(site: PublishedSite, cnn: Subject) -> None:
    await train_two(site, cnn, "cnn")


async def test_a_plan_has_several_batch_sizes(site: PublishedSite, mlp: Subject) -> None:
    folder = needs_node()
    for size in (4, BATCH):
        process = await site.host(mlp, f"batches of {size}", batch_size=size, max_diffs=1)
        batches = mlp.batches(5, size=size)
        (result,) = await run_in_node(folder, [task(site.url, process, batches)])
        assert (result["events"], result["clientConfig"]["batch_size"]) == (["accepted", "reported"], size)
        average = await site.checkpoint(process, 2)
        diff = mlp.diff(batches)
        assert_same_diff({key: mlp.weights[key] - average[key] for key in diff}, diff)


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_the_client_learns_why_it_is_refused(site: PublishedSite, mlp: Subject, scheme: str) -> None:
    folder = needs_node()
    url = site.url.replace("http", scheme)
    secret = "a secret of at least thirty-two bytes"
    locked = await site.host(mlp, "locked", authentication={"secret": secret})
    tokens = {"none": {}, "wrong": {"authToken": "just kidding!"}}
    missing, wrong = await run_in_node(folder, [task(url, locked, [], **token) for token in tokens.values()])
    assert [missing["events"], wrong["events"]] == [["failed"], ["failed"]]
    assert "Authentication is required, please pass an 'auth_token'." in missing["error"]
    assert "The 'auth_token' you sent is invalid." in wrong["error"]
    right = jwt.encode({}, secret, "HS256")
    (accepted,) = await run_in_node(folder, [task(url, locked, mlp.batches(1), authToken=right)])
    assert accepted["events"] == ["accepted", "reported"]
    full = await site.host(mlp, "full", max_workers=1, max_diffs=1, min_diffs=1, num_cycles=2)
    assert (await site.admit(full))["status"] == "accepted"
    (found,) = await run_in_node(folder, [task(url, full, [])])
    assert (found["events"], 0 < found["timeout"] <= 60) == (["rejected"], True)
    finished = await site.host(mlp, "finished", max_diffs=1, num_cycles=1)
    first, second = await run_in_node(folder, [task(url, finished, mlp.batches(1)), task(url, finished, [])])
    if second["events"] == ["rejected"] and second["timeout"]:  # the cycle was being completed
        await site.checkpoint(finished, 2)
        (second,) = await run_in_node(folder, [task(url, finished, [])])
    assert first["events"] == ["accepted", "reported"]
    assert (second["events"], second["timeout"]) == (["rejected"], None)
    (unknown,) = await run_in_node(folder, [task(url, {"name": "none", "version": "1.0"}, [])])
    assert "Not found any process related with this cycle and worker ID." in unknown["error"]


async def test_clients_train_what_a_model_owner_of_2020_hosted(site: PublishedSite) -> None:
    """A State and a whole plan of PySyft 0.2, in hexadecimal; the Domain translates the plan into tfjs."""
    folder = needs_node()
    form = message(averaging=iterative_average(), iterative_plan=True)
    hosted = await site.web.post("/model-centric/host-training", json=form, headers=site.owner)
    assert hosted.json() == {"status": "success"}
    process = {"name": "of-2020", "version": "1.0"}
    random = np.random.default_rng(2)
    tasks, diffs = [], []
    for _ in range(2):
        x = random.standard_normal((3, 8, 4)).astype(np.float32)
        y = np.eye(3, dtype=np.float32)[random.integers(0, 3, (3, 8))]
        batches = list(zip(x, y, strict=True))
        tasks.append(task(site.url.replace("http", "ws"), process, batches))
        params: list[Any] = arrays()
        for data, labels in batches:
            given = [data, labels, np.float32(8), np.float32(0.1), *params]
            params = list_program(training_plan()).run(given)[2:]
        diffs.append([before - after for before, after in zip(arrays(), params, strict=True)])
    results = await run_in_node(folder, tasks)
    assert [one["events"] for one in results] == [["accepted", "reported"]] * 2, results
    average = await site.checkpoint(process, 2)
    found = {name: arrays()[int(name)] - array for name, array in average.items()}
    assert_same_diff(found, {str(index): np.mean([diff[index] for diff in diffs], axis=0) for index in (0, 1)})
    token = site.owner["Authorization"].removeprefix("Bearer ")
    with pytest.raises(Conflict, match="has no ONNX graph"):
        await asyncio.to_thread(lambda: connect(site.url, token=token).process("of-2020").plan())
