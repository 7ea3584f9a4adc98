"""How long a job takes that does next to nothing: from handing it to the driver to having its result.

    python benchmarks/worker_start.py [--jobs 50]

Claim: with a warm Worker, less than 100 ms, the sandbox included. Below, what the parts cost: the start of the warm
process (once for a Domain), a cold Python that imports the same, and closing the sandbox alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from private_training import job, prepare
from pygrid import sandbox
from pygrid.compute.local import LocalDriver
from pygrid.core.job_spec import JobSpec

BUDGET_MS = 100.0
SANDBOXES = 30


async def measure(spec: JobSpec, jobs: int) -> tuple[float, list[float]]:
    """Milliseconds of the driver's start, and of each job."""
    began = time.perf_counter()
    async with LocalDriver() as driver:
        start_ms = 1000 * (time.perf_counter() - began)
        times = []
        for _ in range(jobs):
            began = time.perf_counter()
            result = await driver.run(spec)
            times.append(1000 * (time.perf_counter() - began))
            if result.failure is not None:
                raise SystemExit(f"the job failed: {result.failure.detail}")
    return start_ms, times


def sandbox_ms() -> float:
    """Median milliseconds to close the sandbox, each in a fork of this process."""
    times = []
    empty = sandbox.open_empty_folder()
    for _ in range(SANDBOXES):
        reader, writer = os.pipe()
        if os.fork() == 0:
            began = time.perf_counter()
            sandbox.apply(sandbox.Limits(2**30, 10), keep={writer}, empty=empty, allow_weak=True)
            os.write(writer, str(time.perf_counter() - began).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            times.append(1000 * float(file.read()))
        os.wait()
    return statistics.median(times)


def cold_ms() -> float:
    """Milliseconds of a new Python that imports what a job needs."""
    began = time.perf_counter()
    program = "from pygrid.compute.runtime.job_process import preload; preload()"
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50, help="how many jobs, one after the other")
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        from msgspec.structs import replace

        start_ms, times = asyncio.run(measure(replace(job(folder, 32, private=False), epochs=0), jobs))
    median, worst = statistics.median(times), float(np.percentile(times, 95))
    print(f"warm job          {median:7.0f} ms (median), {worst:.0f} ms (95th percentile); budget {BUDGET_MS:.0f} ms")
    print(f"  of it, sandbox  {sandbox_ms():7.1f} ms")
    print(f"start of the warm process {start_ms:.0f} ms; a cold Python with the same imports {cold_ms():.0f} ms")
    sys.exit(1 if median > BUDGET_MS else 0)


if __name__ == "__main__":
    main()
