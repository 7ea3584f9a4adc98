"""A convolutional network on four devices that are processes, with momentum at the server.

    python examples/digits_cnn.py

Starts a Domain of its own in a temporary folder. Compare `digits.py`, which explains the steps.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import digits_data
import pygrid.client
from local_processes import LocalProcesses
from pygrid.plans import Plan

NUM_DEVICES = 4
NUM_CYCLES = 12
PLANS = Path(__file__).parent / "plans"


def main() -> float:
    """Train; gives the share of held-out images that the model reads right in the end."""
    training, held_out = digits_data.hold_out(digits_data.load())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(LocalProcesses(folder / "logs"))
        url = processes.start_domain(folder / "domain")
        domain = stack.enter_context(pygrid.client.connect(url))
        domain.sign_up("owner@example.org", "correct horse battery staple")
        process = domain.host(
            "digits-cnn",
            version="1.0",
            model=PLANS / "digits_cnn.safetensors",
            plans={"training_plan": Plan.load(PLANS / "digits_cnn.plan")},
            client_config={"epochs": 2, "batch_size": 16, "lr": 0.1},
            server_config={
                "num_cycles": NUM_CYCLES,
                "cycle_length": 60,
                "min_workers": NUM_DEVICES,
                "max_diffs": NUM_DEVICES,
                # The averaged diff is a direction to go on in, rather than a step to take and forget.
                "server_optimizer": {"name": "momentum", "learning_rate": 1.0, "momentum": 0.5},
            },
        )
        for number, shard in enumerate(digits_data.shards(training, NUM_DEVICES), start=1):
            file = folder / f"device-{number}.npz"
            shard.save(file, as_images=True)
            processes.start(f"device-{number}", ["edge", url, "--model", "digits-cnn", "--data", str(file)])
        process.watch()
        accuracy = process.evaluate(held_out.arrays(as_images=True))["accuracy"]
        processes.wait("device-", timeout_s=30)
    print(f"accuracy on {len(held_out)} held-out images: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
