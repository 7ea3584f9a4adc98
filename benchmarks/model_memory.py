"""The peak memory in which a large model is built, uploaded, hosted and trained, as a multiple of the model's bytes.

    python benchmarks/model_memory.py [--millions 200] [--optimizer sgd|adam] [--folder FOLDER]

The model is an embedding of 30,522 words and blocks of a LayerNorm and two linear layers, with as many numbers as asked
for. Each step runs in a process of its own. ``build`` makes the plan. ``upload`` sends plan and model to a Domain.
``train`` is a device that joins a cycle, trains 2 batches and reports. The Domain is measured twice: ``hosted`` after
the upload, ``cycle`` after the checkpoint. Peak memory is VmHWM, without that of the process before it had the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from server_process import ServerProcess, start_domain

OWNER = ("owner@example.org", "correct horse battery staple")
VOCABULARY, LENGTH, CLASSES = 30_522, 16, 10
BUDGETS = {"build": 10.0, "upload": 0.5, "hosted": 0.5, "train": 6.0, "cycle": 4.0}
"""Largest multiples of the model's bytes, for SGD. Below 64 million numbers, ``build`` compares in float64 as well."""
FLOAT64_EXTRA, FLOAT64_MILLIONS = 14.0, 64.0
OPTIMIZER_EXTRA = {"sgd": 0.0, "adam": 12.0}
"""Further multiples in ``build`` and ``train`` for the state of the optimizer."""


def peak_bytes() -> int:
    """VmHWM of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


# -- the steps, each in a process of its own -------------------------------------------------------------------------


def build(folder: Path, millions: float, optimizer: str) -> dict[str, Any]:
    import torch
    from torch import nn

    import pygrid
    from pygrid.plans.authoring import initial_params
    from pygrid.tensors import encode_pieces

    width = 1024 if millions >= 100 else 512 if millions >= 20 else 128
    rest = millions * 1e6 - VOCABULARY * width
    num_blocks = max(1, round(rest / (8 * width * width)))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.wide = nn.LayerNorm(width), nn.Linear(width, 4 * width)
            self.narrow = nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.narrow(torch.relu(self.wide(self.norm(x))))

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(VOCABULARY, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(num_blocks)))
            self.out = nn.Linear(width, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.blocks(self.words(x).mean(1)))

    @pygrid.plan(
        data={"x": pygrid.Integers["batch", LENGTH](VOCABULARY), "y": pygrid.Label(CLASSES)}, max_batch_size=32
    )
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    torch.manual_seed(0)
    base = peak_bytes()
    model = Words()
    begin = time.perf_counter()
    chosen = pygrid.optim.Adam() if optimizer == "adam" else pygrid.optim.SGD(momentum=0.0)
    plan = loss.build(model, optimizer=chosen)
    seconds = time.perf_counter() - begin
    peak = peak_bytes()
    plan.save(folder / "words.plan")
    params = initial_params(model)
    with (folder / "words.safetensors").open("wb") as file:
        file.writelines(encode_pieces(params))
    num_bytes = sum(array.nbytes for array in params.values())
    return {"peak": peak - base, "model_bytes": num_bytes, "seconds": seconds, "plan_bytes": len(plan.data)}


def host(folder: Path, url: str) -> dict[str, Any]:
    from pygrid.client import connect

    client = connect(url)
    client.sign_up(*OWNER)
    base, begin = peak_bytes(), time.perf_counter()
    client.host(
        "words",
        "1",
        model=folder / "words.safetensors",
        plans=folder / "words.plan",
        client_config={"batch_size": 4, "max_updates": 2},
        server_config={"min_diffs": 1, "max_diffs": 1, "num_cycles": 1, "cycle_length": None},
    )
    return {"peak": peak_bytes() - base, "seconds": time.perf_counter() - begin}


def train(folder: Path, url: str) -> dict[str, Any]:
    from pygrid.edge import participate

    random = np.random.default_rng(0)
    data = {
        "x": random.integers(0, VOCABULARY, (8, LENGTH)),
        "y": random.integers(0, CLASSES, 8),
    }
    base, begin = peak_bytes(), time.perf_counter()
    participate(url, "words", data, cycles=1, cache_dir=folder / "cache")
    return {"peak": peak_bytes() - base, "seconds": time.perf_counter() - begin}


STEPS = {"build": build, "host": host, "train": train}


# -- the measurement -------------------------------------------------------------------------------------------------


def in_process(step: str, folder: Path, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(folder: Path, millions: float, optimizer: str) -> list[tuple[str, float, float]]:
    """For each step its name, the multiple of the model's bytes, and the seconds."""
    built = in_process("build", folder, "--millions", millions, "--optimizer", optimizer)
    model = built["model_bytes"]
    print(f"model: {model / 4e6:.1f} million numbers, {model / 1e6:.0f} MB; plan: {built['plan_bytes'] / 1e3:.0f} kB")
    found = [("build", built["peak"] / model, built["seconds"])]
    with start_domain(folder / "domain") as domain:
        idle = domain.peak_bytes
        url = f"http://127.0.0.1:{domain.address[1]}"
        uploaded = in_process("host", folder, "--url", url)
        found.append(("upload", uploaded["peak"] / model, uploaded["seconds"]))
        found.append(("hosted", (domain.peak_bytes - idle) / model, 0.0))
        trained = in_process("train", folder, "--url", url)
        found.append(("train", trained["peak"] / model, trained["seconds"]))
        wait_for_checkpoint(url, domain)
        found.append(("cycle", (domain.peak_bytes - idle) / model, 0.0))
    return found


def wait_for_checkpoint(url: str, domain: ServerProcess) -> None:
    from pygrid.client import connect

    client = connect(url)
    client.login(*OWNER)
    process = client.process("words", "1")
    deadline = time.monotonic() + 600
    while process.checkpoints()[0].number < 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no checkpoint; see {domain.log}")
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the memory of a large model, as a multiple of its bytes.")
    parser.add_argument("--millions", type=float, default=20.0, help="numbers of the model, in millions (default: 20)")
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="sgd")
    parser.add_argument("--folder", type=Path, help="for the model, the Domain and the cache (default: temporary)")
    parser.add_argument("--step", choices=sorted(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "build":
        print(json.dumps(build(options.folder, options.millions, options.optimizer)))
        return 0
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder, options.url)))
        return 0
    with tempfile.TemporaryDirectory(prefix="pygrid-memory-", dir=options.folder) as folder:
        found = measure(Path(folder), options.millions, options.optimizer)
    print("| step | peak memory / model | budget | seconds |\n|---|---|---|---|")
    kept = True
    for name, ratio, seconds in found:
        budget = BUDGETS[name] + (OPTIMIZER_EXTRA[options.optimizer] if name in ("build", "train") else 0.0)
        if name == "build" and options.millions < FLOAT64_MILLIONS:
            budget += FLOAT64_EXTRA
        kept = kept and ratio <= budget
        print(f"| {name} | {ratio:.1f} | {budget:.1f} | {seconds:.0f} |")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
