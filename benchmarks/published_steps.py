"""A training step of an MLP in the published client: emitted actions beside hand-written ones."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from pygrid.domain import build_domain
from pygrid.settings import load_settings
from pygrid.syft import Action, PlanMessage, Ref, write_plan, write_state
from support.published_site import PublishedSite, build_subject
from support.syftjs import needs_node, run_in_node, task
from support.web import People, serving

SIZES = (784, 392, 10)
BATCH = 64
NUM_STEPS = 8


class _Actions:
    def __init__(self, num_inputs: int) -> None:
        self.inputs = [Ref(number) for number in range(1, num_inputs + 1)]
        self.actions: list[Action] = []

    def __call__(self, name: str, *args: Any) -> Ref:
        result = len(self.inputs) + len(self.actions) + 1
        self.actions.append(Action(f"tf.{name}", args, result))
        return Ref(result)


def hand_written() -> PlanMessage:
    """The step ``X, y, batch_size, lr, W1, b1, W2, b2 -> loss, accuracy, W1, b1, W2, b2``, in 32 actions."""
    tf = _Actions(8)
    x, y, size, rate, w1, b1, w2, b2 = tf.inputs
    hidden = tf("relu", tf("add", tf("matMul", x, w1, False, True), b1))
    logits = tf("add", tf("matMul", hidden, w2, False, True), b2)
    loss = tf("div", tf("neg", tf("sum", tf("mul", y, tf("logSoftmax", logits)))), size)
    grad = tf("div", tf("sub", tf("softmax", logits), y), size)
    back = tf("mul", tf("matMul", grad, w2), tf("step", hidden))
    gradients = [
        tf("matMul", back, x, True, False),
        tf("sum", back, 0),
        tf("matMul", grad, hidden, True, False),
        tf("sum", grad, 0),
    ]
    moved = [tf("sub", old, tf("mul", rate, one)) for old, one in zip((w1, b1, w2, b2), gradients, strict=True)]
    right = tf("equal", tf("argMax", logits, 1), tf("argMax", y, 1))
    accuracy = tf("mean", tf("cast", right, "float32"))
    ids = tuple(one.id for one in tf.inputs), tuple(one.id for one in (loss, accuracy, *moved))
    return PlanMessage("training_plan", *ids, tuple(tf.actions), base_framework="tfjs")


async def time_steps() -> tuple[float, float]:
    """Median milliseconds of a step: emitted, and written by hand, with reports over HTTP and the WebSocket."""
    folder = await asyncio.to_thread(needs_node)
    torch.manual_seed(1)
    layers = [torch.nn.Linear(*SIZES[:2]), torch.nn.ReLU(), torch.nn.Linear(*SIZES[1:])]
    subject = build_subject(torch.nn.Sequential(*layers), SIZES[:1], (BATCH,))
    with tempfile.TemporaryDirectory() as data:
        app = build_domain(load_settings({}, data_dir=Path(data) / "data", id="bench"))
        async with (
            serving(app, idle_s=75) as (_, port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web,
        ):
            site = PublishedSite(f"http://127.0.0.1:{port}", web, await People(web).owner())
            emitted = await site.host(subject, "emitted", batch_size=BATCH, max_diffs=100)
            form = {
                "model": write_state([np.asarray(one) for one in subject.weights.values()]).hex(),
                "plans": {"training_plan:tfjs": write_plan(hand_written()).hex()},
                "client_config": {"name": "written", "version": "1.0", "batch_size": BATCH, "lr": 0.1},
                "server_config": {"cycle_length": 3600, "max_diffs": 100},
            }
            hosted = await web.post("/model-centric/host-training", json=form, headers=site.owner)
            assert hosted.status_code == 201, hosted.text
            written = {"name": "written", "version": "1.0"}
            batches = subject.batches(3, NUM_STEPS, BATCH)
            urls = site.url, site.url.replace("http", "ws")
            tasks = [task(url, process, batches) for url in urls for process in (emitted, written)]
            results = await run_in_node(folder, tasks)
    assert all(one["events"] == ["accepted", "reported"] for one in results), results
    np.testing.assert_allclose(results[0]["losses"], results[1]["losses"], rtol=1e-4)
    sides = [[s for one in results[side::2] for s in one["seconds"][1:]] for side in (0, 1)]
    return 1000 * statistics.median(sides[0]), 1000 * statistics.median(sides[1])
