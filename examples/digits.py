"""Federated learning in one file: host a model, let devices train it, look at what they learned.

    pygrid domain                                    in one terminal
    python examples/digits.py http://127.0.0.1:5000  in another

The devices are threads here, to keep it in one file; on a phone or in a hospital, `device` is the whole program.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import digits_data
import pygrid.client
import pygrid.edge
from pygrid.errors import Conflict
from pygrid.plans import Plan

EMAIL, PASSWORD = "owner@example.org", "correct horse battery staple"
NUM_DEVICES = 5
PLANS = Path(__file__).parent / "plans"


def connect(url: str) -> pygrid.client.DomainClient:
    """A session on the Domain. The first account that is made on a Domain is its Owner, who may host."""
    domain = pygrid.client.connect(url)
    try:
        domain.sign_up(EMAIL, PASSWORD)
    except Conflict:  # there since an earlier run
        domain.login(EMAIL, PASSWORD)
    return domain


def device(url: str, version: str, data: digits_data.Digits) -> None:
    """All that a device does. Its data stays here; what leaves is the change that training made to the model."""
    pygrid.edge.participate(url, "digits-example", data.arrays(), version=version)


def main(url: str) -> float:
    """Train; gives the share of held-out images that the model reads right in the end."""
    # What the model's owner has: a plan (how to train, made by examples/plans/digits.py), first weights, and some test
    # data.
    plan = Plan.load(PLANS / "digits.plan")
    weights = pygrid.edge.load_data(PLANS / "digits.safetensors")
    training, held_out = digits_data.hold_out(digits_data.load())

    with connect(url) as domain:
        # 1. Host them. `client_config` is what devices do in a cycle, `server_config` how the Domain runs the cycles.
        process = domain.host(
            "digits-example",
            version=time.strftime("%Y%m%d-%H%M%S"),
            model=weights,
            plans={"training_plan": plan},
            client_config={"epochs": 5, "batch_size": 8, "lr": 0.3},
            server_config={"num_cycles": 15, "cycle_length": 60, "min_workers": NUM_DEVICES, "max_diffs": NUM_DEVICES},
        )

        # 2. The devices, each with images of its own. They ask for work, train, report, until training is over.
        threads = [
            threading.Thread(target=device, args=(url, process.version, shard), daemon=True)
            for shard in digits_data.shards(training, NUM_DEVICES)
        ]
        for thread in threads:
            thread.start()

        # 3. Watch, until the last cycle is completed.
        process.watch()
        for thread in threads:
            thread.join()

        # 4. Try the model on images that no device had, before and after.
        before = process.evaluate(held_out.arrays(), checkpoint=1)["accuracy"]
        after = process.evaluate(held_out.arrays(), checkpoint="latest")["accuracy"]
    print(f"accuracy on {len(held_out)} held-out images: {before:.1%} before, {after:.1%} after")
    return after


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:5000")
