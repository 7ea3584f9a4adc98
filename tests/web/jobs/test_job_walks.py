"""Jobs over HTTP, from the request to the result, with real Workers.

Should happen: a job is tried on the mock twin, decided on, charged, run; its result is the same at each download.
Should not happen: an exact result leaves unsigned; a decision counts for what was not looked at, or comes from who asked.
"""

from __future__ import annotations

import numpy as np
import pytest
from jobs_support import JOBS, NUM_RECORDS, Site, records
from web_support import assert_problem

from pygrid.plans.runner import Runner
from pygrid.tensors import decode


async def test_an_exact_training_is_approved_held_and_signed_off(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, epochs=5, batch_size=16, seed=4, hyper={"lr": 0.05})
    waiting = await site.scientist.wait(job["id"], "waiting")
    assert set(waiting["metrics"]) == {"loss", "accuracy"}, "of the mock twin"
    assert waiting["plan_summary"] is None
    seen = await site.owner.job(job["id"])
    assert "trains with SGD" in seen["plan_summary"]
    assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")
    await site.owner.approve(seen, "go on")
    held = await site.owner.wait(job["id"], "held")
    assert held["comment"] == "go on"
    assert held["facts"]["num_records"] == NUM_RECORDS
    assert 0 < held["bytes_out_ratio"] < 0.2
    assert_problem(await site.scientist.result(job["id"]), 409, "result_not_released")
    unsigned = await site.scientist.job(job["id"])
    assert (unsigned["metrics"], unsigned["facts"], unsigned["result_bytes"]) == (waiting["metrics"], None, None)
    shown = await site.owner.result(job["id"])
    assert (await site.owner.approve(held))["state"] == "released"
    first, second = await site.scientist.result(job["id"]), await site.scientist.result(job["id"])
    assert first.content == second.content == shown.content
    again = await site.scientist.call("GET", f"{JOBS}/{job['id']}/result")
    assert again.headers["etag"] == first.headers["etag"]
    trained, _ = decode(first.content)
    data = records()
    from handmade import logistic_params, logistic_plan

    expected = Runner(logistic_plan()).train(
        logistic_params(), {"x": data["features"], "y": data["label"]}, epochs=5, batch_size=16, seed=4, hyper={"lr": 0.05}
    )
    for name, array in expected.params.items():
        np.testing.assert_array_equal(trained[name], array)
    done = await site.scientist.job(job["id"])
    assert done["metrics"] == pytest.approx(expected.metrics)
    assert done["progress"] == 1.0
