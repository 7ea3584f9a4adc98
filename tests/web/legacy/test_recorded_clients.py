"""Whole cycles of the published client, replayed without it.

Should happen: the recorded bytes get the recorded answers, byte by byte, and the report becomes a checkpoint.
Should not happen: a change in an answer, in a header for other origins, or in what a client may send.
"""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from pygrid.syft import read_state
from support.published_recording import Replay, load
from support.pysyft import arrays, message
from support.training import Site, owned_folder, site  # noqa: F401 - fixtures


@pytest.mark.parametrize("name", ["http", "ws"])
async def test_a_recording_is_answered_as_it_was(site: Site, name: str) -> None:  # noqa: F811
    form = message(min_diffs=1, max_diffs=1, num_cycles=1)
    hosted = await site.web.post("/model-centric/host-training", json=form, headers=site.owner)
    assert hosted.json() == {"status": "success"}
    exchanges = load(name)
    await Replay(site.app, site.web).run(exchanges)
    bodies = [json.loads(one.get("sent") or one["body"] or "{}") for one in exchanges]
    (diff,) = [one for body in bodies if (one := {**body, **body.get("data", {})}.get("diff"))]
    process = (await site.web.get("/model-centric/processes", headers=site.owner)).json()["processes"][0]
    await site.until_completed(process)
    checkpoint = [array for _, array in sorted((await site.checkpoint(process, 2)).items())]
    for start, moved, found in zip(arrays(), read_state(base64.b64decode(diff)), checkpoint, strict=True):
        assert np.abs(moved).max() > 0
        np.testing.assert_allclose(found, start - moved, rtol=1e-6)
