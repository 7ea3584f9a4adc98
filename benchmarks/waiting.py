"""What 10,000 devices that wait for a place cost a Domain, and their admission to 100 places.

    python benchmarks/waiting.py [--devices 10000]

Each device has a connection with a cycle request that waits. Measured are the memory of the server for each, its CPU
while nothing happens, and its CPU from the report that ends the cycle until 100 of them are admitted to the next one.
A run needs twice as many open files as devices in all, half of them in each of two processes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from figure import Figure
from loadgen import Connection, Device, host, sign_up
from server_process import ServerProcess, leave_nothing_behind, start_domain
from vector_model import diff_bytes, model_bytes, plan_bytes

SIZE = 1_000
NUM_PLACES = 100
AT_ONCE = 64
WAIT_S = 120.0
IDLE_S = 10.0
CALM_S = 0.05
"""CPU within a second of a server that handles no request, at most."""
CONFIG = {"max_workers": NUM_PLACES, "max_diffs": 1, "num_cycles": 2, "cycle_length": None}


async def measure(folder: Path, num_devices: int) -> list[Figure]:
    """The figures of one run."""
    environment = {"PYGRID_MAX_CONNECTIONS": str(num_devices + 500)}
    with start_domain(folder, 0, environment) as domain:
        token = await sign_up(domain.address, "owner@example.org", "correct horse battery staple")
        process = await host(domain.address, token, "marks", model_bytes(SIZE), plan_bytes(SIZE), CONFIG)
        shared = [await Connection.open(domain.address) for _ in range(AT_ONCE)]
        devices: list[Device] = []

        async def authenticate(connection: Connection, count: int) -> None:
            for _ in range(count):
                device = Device(connection, process)
                await device.authenticate()
                devices.append(device)

        share = -(-(num_devices + NUM_PLACES) // AT_ONCE)
        await asyncio.gather(*(authenticate(connection, share) for connection in shared))
        first, waiting = devices[:NUM_PLACES], devices[NUM_PLACES : NUM_PLACES + num_devices]
        keys = [(await device.join())["request_key"] for device in first]
        before = domain.held_bytes
        for device in waiting:
            device.connection = await Connection.open(domain.address)
        asking = [asyncio.create_task(device.join(WAIT_S)) for device in waiting]
        await _calm(domain)
        grown, cpu_s = domain.held_bytes - before, domain.cpu_s
        await asyncio.sleep(IDLE_S)  # the time in which nothing happens
        idle = (domain.cpu_s - cpu_s) / IDLE_S
        cpu_s = domain.cpu_s
        await first[0].report(keys[0], diff_bytes(SIZE))
        num_admitted = 0
        for done in asyncio.as_completed(asking):
            num_admitted += (await done)["status"] == "accepted"
            if num_admitted == NUM_PLACES:
                break
        spent_s = domain.cpu_s - cpu_s
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        note = f"{num_devices:,} devices"
        return [
            Figure("memory of a waiting device", grown / num_devices / 1024, "kB", 30, note=note),
            Figure("CPU while they wait", 100 * idle, "%", 1, note=note),
            Figure(f"CPU until {NUM_PLACES} of them are admitted", spent_s, "s", 0.5, note="with the checkpoint"),
        ]


async def _calm(domain: ServerProcess) -> None:
    """Return when the server has handled all requests."""
    spent_s = CALM_S
    while spent_s >= CALM_S:
        before = domain.cpu_s
        await asyncio.sleep(1)  # the time over which its CPU is counted
        spent_s = domain.cpu_s - before


def main() -> int:
    parser = argparse.ArgumentParser(description="What waiting devices cost a Domain.")
    parser.add_argument("--devices", type=int, default=10_000)
    options = parser.parse_args()
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-waiting-") as folder:
        figures = uvloop.run(measure(Path(folder), options.devices))
    print("| what | measured | budget | | note |\n|---|---|---|---|---|")
    for figure in figures:
        print(figure.line())
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
