"""What a report costs a Domain: CPU, rate, time per cycle, time for large models, memory; beside the floor in the same
run.

    python benchmarks/reports.py                  all parts, about three minutes
    python benchmarks/reports.py --only latency   one of: reports, latency, large, memory

README.md, in this folder, says what each part does and holds the figures. Exit code 1: a budget was missed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figure import Figure, measure_parts
from loadgen import Address, Connection, Device, Process, cycles, host, open_devices, sign_up
from server_process import ServerProcess, start_domain, start_floor
from vector_model import diff_bytes, model_bytes, plan_bytes

MEGABYTE = 1e6
SMALL = 50_000
"""Values of a 200 kB model."""
LARGE = 25_000_000
"""Values of a 100 MB model."""
REPEATS = 3
SMALL_REPORT = diff_bytes(SMALL)


@dataclass(frozen=True)
class Load:
    """What one server needed: wall and CPU seconds, per report or in all."""

    wall_s: float
    cpu_s: float


async def _hosted(address: Address, size: int, config: dict[str, Any], name: str, token: str) -> Process:
    return await host(address, token, name, model_bytes(size), plan_bytes(size), {"cycle_length": None, **config})


async def sign_up_owner(address: Address) -> str:
    """The session token of a new Owner."""
    return await sign_up(address, "owner@example.org", "correct horse battery staple")


async def _wait_completed(address: Address, process: Process, sequence: int) -> None:
    """Return once that cycle is completed; looks twice a second, which costs the server next to nothing."""
    while True:
        for cycle in await cycles(address, process, after=sequence - 1):
            if cycle["sequence"] == sequence and cycle["state"] == "completed":
                return
        await asyncio.sleep(0.5)


async def _in_turns(connections: list[Connection], keys: list[str], body: bytes) -> float:
    """Report once with each key, each connection one after the other; gives the seconds until the last answer."""
    left = iter(keys)

    async def work(connection: Connection) -> None:
        for key in left:
            await connection.request("POST", "/model-centric/report", body, bearer=key)
        connection.close()

    begin = time.perf_counter()
    await asyncio.gather(*(work(connection) for connection in connections))
    return time.perf_counter() - begin


# ---- reports: CPU and rate -------------------------------------------------------------------------------------------


async def _admit(address: Address, process: Process, num: int) -> list[str]:
    """Request keys of ``num`` fresh devices, all admitted to the open cycle."""
    keys: list[str] = []

    async def admit(connection: Connection) -> None:
        while len(keys) < num:
            device = Device(connection, process)
            await device.authenticate()
            answer = await device.join()
            if answer["status"] != "accepted":
                raise RuntimeError(f"a device was not admitted: {answer}")
            keys.append(answer["request_key"])
        connection.close()

    await asyncio.gather(*[admit(await Connection.open(address)) for _ in range(20)])
    return keys[:num]


async def load_domain(domain: ServerProcess, token: str, name: str, num_reports: int, num_connections: int) -> Load:
    """Report to a fresh process; its CPU counts until the checkpoint with all of them is there."""
    process = await _hosted(domain.address, SMALL, {"max_diffs": num_reports, "num_cycles": 1}, name, token)
    keys = await _admit(domain.address, process, num_reports)
    connections = [await Connection.open(domain.address) for _ in range(num_connections)]
    cpu_before = domain.cpu_s
    wall_s = await _in_turns(connections, keys, SMALL_REPORT)
    await _wait_completed(domain.address, process, 1)
    return Load(wall_s / num_reports, (domain.cpu_s - cpu_before) / num_reports)


async def _load_floor(floor: ServerProcess, num_reports: int, num_connections: int) -> Load:
    connections = [await Connection.open(floor.address) for _ in range(num_connections)]
    cpu_before = floor.cpu_s
    wall_s = await _in_turns(connections, ["0" * 64] * num_reports, SMALL_REPORT)
    return Load(wall_s / num_reports, (floor.cpu_s - cpu_before) / num_reports)


async def measure_reports(folder: Path) -> list[Figure]:
    """CPU per durable 200 kB report, everything until its checkpoint included, and reports per second."""
    figures: list[Figure] = []
    with start_domain(folder / "domain") as domain, start_floor(folder / "floor") as floor:
        token = await sign_up_owner(domain.address)
        for label, num_reports, num_connections in (
            ("one device after the other", 300, 1),
            ("100 devices at once", 2000, 100),
        ):
            ours, bare = [], []
            for repeat in range(REPEATS):
                ours.append(
                    await load_domain(domain, token, f"{num_connections}-{repeat}", num_reports, num_connections)
                )
                bare.append(await _load_floor(floor, num_reports, num_connections))
            cpu_ms, bare_cpu_ms = (statistics.median(load.cpu_s for load in loads) * 1000 for loads in (ours, bare))
            rate, bare_rate = (1 / statistics.median(load.wall_s for load in loads) for loads in (ours, bare))
            note = f"floor {bare_cpu_ms:.2g} ms, so {cpu_ms / bare_cpu_ms:.1f} x"
            figures.append(Figure(f"server CPU per durable 200 kB report, {label}", cpu_ms, "ms", 2.0, note=note))
            budget = 300.0 if num_connections == 100 else None
            note = f"floor {bare_rate:.0f} /s, not durable"
            figures.append(Figure(f"durable 200 kB reports, {label}", rate, "/s", budget, at_least=True, note=note))
    return figures


# ---- latency: a cycle of waiting devices -----------------------------------------------------------------------------


async def measure_latency(folder: Path, num_devices: int = 20, num_cycles: int = 60) -> list[Figure]:
    """Milliseconds from one completed cycle to the next: every device waits, downloads the model and reports at
    once.
    """
    moments: list[float] = []
    with start_domain(folder / "domain") as domain:
        token = await sign_up_owner(domain.address)
        counts = {
            "min_workers": num_devices,
            "max_workers": num_devices,
            "max_diffs": num_devices,
            "num_cycles": num_cycles,
        }
        process = await _hosted(domain.address, SMALL, counts, "latency", token)

        async def participate(device: Device) -> None:
            while True:
                answer = await device.join(wait_s=30.0)
                if answer["status"] == "accepted":
                    await device.download(answer)
                    await device.report(answer["request_key"], SMALL_REPORT)
                elif "timeout" not in answer:
                    return

        devices = await open_devices(domain.address, process, num_devices)
        cpu_before = domain.cpu_s
        await asyncio.gather(*(participate(device) for device in devices))
        cpu_ms = (domain.cpu_s - cpu_before) * 1000 / num_cycles
        for cycle in await cycles(domain.address, process):
            moments.append(_timestamp(cycle["completed_at"]))
    gaps = [(later - earlier) * 1000 for earlier, later in itertools.pairwise(moments[5:])]
    worst = sorted(gaps)[int(len(gaps) * 0.95)]
    return [
        Figure(
            f"cycle of {num_devices} waiting devices, 200 kB model, no training",
            statistics.median(gaps),
            "ms",
            50.0,
            note=f"95 %: {worst:.0f} ms; server CPU {cpu_ms:.0f} ms",
        )
    ]


def _timestamp(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


# ---- large: five devices, 100 MB each --------------------------------------------------------------------------------


async def measure_large(folder: Path, num_devices: int = 5, size: int = LARGE) -> list[Figure]:
    """Seconds until five devices that report 100 MB each at once all have their answer, and the CPU, against
    the floor.
    """
    body = diff_bytes(size)
    ours, bare, disk_s = [], [], []
    with start_domain(folder / "domain") as domain, start_floor(folder / "floor") as floor:
        token = await sign_up_owner(domain.address)
        process = await _hosted(domain.address, size, {"max_diffs": num_devices, "num_cycles": REPEATS}, "large", token)
        devices = await open_devices(domain.address, process, num_devices)
        connections = [await Connection.open(floor.address) for _ in range(num_devices)]
        for repeat in range(REPEATS):
            keys = [(await device.join(wait_s=60.0))["request_key"] for device in devices]
            begin, cpu_before = time.perf_counter(), domain.cpu_s
            await asyncio.gather(*(device.report(key, body) for device, key in zip(devices, keys, strict=True)))
            wall_s = time.perf_counter() - begin
            await _wait_completed(domain.address, process, repeat + 1)
            ours.append(Load(wall_s, domain.cpu_s - cpu_before))
            begin, cpu_before = time.perf_counter(), floor.cpu_s
            await asyncio.gather(*(connection.request("POST", "/", body) for connection in connections))
            bare.append(Load(time.perf_counter() - begin, floor.cpu_s - cpu_before))
            disk_s.append(await asyncio.to_thread(_write_durably, folder / "disk", body, num_devices))
    wall_s, bare_wall_s = (statistics.median(load.wall_s for load in loads) for loads in (ours, bare))
    cpu_s, bare_cpu_s = (statistics.median(load.cpu_s for load in loads) for loads in (ours, bare))
    what = f"{num_devices} devices report 100 MB each"
    cpu_note = f"{cpu_s:.2f} s against {bare_cpu_s:.2f} s"
    note = (
        f"{wall_s:.2f} s against {bare_wall_s:.2f} s; to write and sync the bytes alone: "
        f"{statistics.median(disk_s):.2f} s"
    )
    return [
        Figure(f"{what}: time over that of the floor", wall_s / bare_wall_s, "x", 2.0, note=note),
        Figure(f"{what}: CPU over that of the floor", cpu_s / bare_cpu_s, "x", note=cpu_note),
    ]


def _write_durably(path: Path, body: bytes, num: int) -> float:
    """Seconds to write ``num`` bodies to the disk, synced: what a durable report can't do without."""
    begin = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(num):
            file.write(body)
        file.flush()
        os.fdatasync(file.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return seconds


# ---- memory: the peak with few and with many devices -----------------------------------------------------------------


async def measure_memory(folder: Path) -> list[Figure]:
    """Peak memory of a Domain from its start: a 100 MB model is hosted, all download it at once, all report at once."""
    body = diff_bytes(LARGE)
    limit_mb = (3 * len(body) + 150 * MEGABYTE) / MEGABYTE
    figures: list[Figure] = []
    for num_devices in (5, 50):
        with start_domain(folder / f"domain-{num_devices}") as domain:
            idle_mb = domain.peak_bytes / MEGABYTE
            token = await sign_up_owner(domain.address)
            config = {"max_diffs": num_devices, "num_cycles": 1}
            process = await _hosted(domain.address, LARGE, config, "memory", token)
            hosted_mb = domain.peak_bytes / MEGABYTE
            devices = await open_devices(domain.address, process, num_devices)

            async def participate(device: Device) -> None:
                answer = await device.join(wait_s=60.0)
                await device.download(answer)
                await device.report(answer["request_key"], body)

            await asyncio.gather(*(participate(device) for device in devices))
            await _wait_completed(domain.address, process, 1)
            note = f"started {idle_mb:.0f} MB, model hosted {hosted_mb:.0f} MB"
            figures.append(
                Figure(
                    f"peak memory, {num_devices} devices, 100 MB model",
                    domain.peak_bytes / MEGABYTE,
                    "MB",
                    limit_mb,
                    note=note,
                )
            )
    return figures


PARTS = {"reports": measure_reports, "latency": measure_latency, "large": measure_large, "memory": measure_memory}


if __name__ == "__main__":
    sys.exit(measure_parts("Measure what reports cost a Domain, beside a bare server.", PARTS))
