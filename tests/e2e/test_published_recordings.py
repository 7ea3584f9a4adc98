"""The recordings of whole cycles are those of the real client; ``RECORD_SNAPSHOTS=1`` makes them.

Should happen: the client sends now what was recorded: the same calls in the same order, with the same members.
Should not happen: a call more, or less.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pygrid.domain import build_domain
from pygrid.settings import load_settings
from support.network import served
from support.published_recording import Exchange, Recorder, load
from support.pysyft import message
from support.syftjs import needs_node, run_in_node, task
from support.syftjs.chromium import open_page
from support.web import People

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def shape(one: Exchange) -> Any:
    """What two runs have in common: all but ids, keys and the bytes of a report."""
    if "sent" in one:
        return re.findall(r'"([a-z_]+)":', one["sent"]), re.findall(r'"([a-z_]+)":', one["received"])
    path = re.sub(r"(worker_id|request_key|random)=[^&]*", r"\1", one["path"])
    return one["method"], path, sorted(one["headers"]), one["status"], one["answered"], len(one["body"])


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_recording_is_what_the_client_does(scheme: str, tmp_path: Path) -> None:
    folder = needs_node()
    recorder = Recorder(build_domain(load_settings({}, data_dir=tmp_path / "data", id="test")))
    async with served(recorder) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:  # type: ignore[arg-type]
        owner = await People(web).owner()
        form = message(min_diffs=1, max_diffs=1, num_cycles=1)
        assert (await web.post("/model-centric/host-training", json=form, headers=owner)).status_code == 201
        random = np.random.default_rng(1)
        x = random.standard_normal((8, 4)).astype(np.float32)
        y = np.eye(3, dtype=np.float32)[random.integers(0, 3, 8)]
        one = task(f"{scheme}://127.0.0.1:{port}", {"name": "of-2020", "version": "1.0"}, [(x, y)])
        if scheme == "http":
            async with open_page(folder) as page:
                (found,) = await page.run([one])
        else:
            (found,) = await run_in_node(folder, [one])
        assert found["events"] == ["accepted", "reported"], found
    if os.environ.get("RECORD_SNAPSHOTS"):
        recorder.save(scheme)
    own = ("/users", "/model-centric/host-training")
    now = [shape(one) for one in recorder.exchanges if "sent" in one or not one["path"].startswith(own)]
    assert now == [shape(one) for one in load(scheme)]
