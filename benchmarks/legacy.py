"""What clients of 2020 cost a Domain, beside native devices in the same run.

    python benchmarks/legacy.py                 all parts
    python benchmarks/legacy.py --only codec    one of: report, codec, model, burst, many, step

``many`` sends 21 GB and writes 16 GB to the disk.
``step`` runs the published client in Node, and is left out without it. Exit code 1: a budget was missed.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from figure import Figure, Measure, measure_parts
from loadgen import Address, Connection, Device, Process, cycles, host, open_devices, sign_up
from many_reports import Reports, admit, host_large
from pygrid.syft import PlanMessage, read_state, state_pieces, write_plan, write_state
from server_process import start_domain
from vector_model import diff_bytes, model_bytes, plan_bytes

SMALL = 50_000
"""Values of a 200 kB model."""
NUM_REPORTS = 200
NUM_DOWNLOADS = 200
NUM_AT_ONCE = 200
LARGE = 10_000_000
"""Values of a model of 40 MB, whose reports in JSON have 53 MB."""
REPEATS = 3
CONFIG = {"cycle_length": 3600, "num_cycles": 50, "max_diffs": 100_000}


async def _owner(address: Address) -> str:
    return await sign_up(address, "owner@example.org", "correct horse battery staple")


async def _host_old(address: Address, token: str, name: str, **server_config: Any) -> Process:
    """A process with a vector and one opaque plan, as a model owner of 2020 hosts it."""
    plan = write_plan(PlanMessage("training_plan", torchscript=b"opaque"))
    form = {
        "model": write_state([np.zeros(SMALL, np.float32)]).hex(),
        "plans": {"training_plan:ts": plan.hex()},
        "client_config": {"name": name, "version": "1.0"},
        "server_config": {**CONFIG, **server_config},
    }
    connection = await Connection.open(address)
    body = json.dumps(form).encode()
    path = "/model-centric/host-training"
    await connection.request("POST", path, body, content_type="application/json", bearer=token, expect=(201,))
    found = await connection.request("GET", f"/model-centric/processes?name={name}", bearer=token)
    connection.close()
    return Process(name, "1.0", found.json()["processes"][0]["id"], token)


class OldDevice(Device):
    """A client of 2020: it sends no ``wait_s``, its key in the query, and its report in JSON."""

    async def join(self, wait_s: float = 0.0) -> dict[str, Any]:
        message = {"worker_id": self.worker_id, "model": self.process.name, "version": self.process.version}
        return (await self.connection.post_json("/model-centric/cycle-request", message)).json()

    async def download(self, acceptance: dict[str, Any]) -> int:
        query = f"worker_id={self.worker_id}&request_key={acceptance['request_key']}"
        path = f"/model-centric/get-model?{query}&model_id={acceptance['model_id']}"
        return (await self.connection.request("GET", path, discard=True)).num_bytes

    async def send(self, request_key: str, diff: str) -> None:
        body = {"worker_id": self.worker_id, "request_key": request_key, "diff": diff}
        await self.connection.post_json("/model-centric/report", body)


async def _old_devices(address: Address, process: Process, num: int) -> list[OldDevice]:
    devices = [OldDevice(await Connection.open(address), process) for _ in range(num)]
    for device in devices:
        await device.authenticate()
    return devices


def _old_diff(value: float = 1e-3) -> str:
    return base64.b64encode(write_state([np.full(SMALL, value, np.float32)])).decode()


async def measure_report(folder: Path, num_reports: int = NUM_REPORTS, repeats: int = REPEATS) -> list[Figure]:
    """CPU of the server for a durable report of 200 kB, one device after the other, beside the native one."""
    with await asyncio.to_thread(start_domain, folder) as domain:
        token = await _owner(domain.address)
        old = await _host_old(domain.address, token, "old")
        new = await host(domain.address, token, "new", model_bytes(SMALL), plan_bytes(SMALL), CONFIG)
        diff, body = _old_diff(), diff_bytes(SMALL)
        cpu: dict[str, list[float]] = {"old": [], "new": []}
        for _ in range(repeats):
            olds = await _old_devices(domain.address, old, num_reports)
            keys = [(await device.join())["request_key"] for device in olds]
            before = domain.cpu_s
            for device, key in zip(olds, keys, strict=True):
                await device.send(key, diff)
            cpu["old"].append((domain.cpu_s - before) / num_reports)
            news = await open_devices(domain.address, new, num_reports)
            keys = [(await device.join())["request_key"] for device in news]
            before = domain.cpu_s
            for native, key in zip(news, keys, strict=True):
                await native.report(key, body)
            cpu["new"].append((domain.cpu_s - before) / num_reports)
            everyone: list[Device] = [*olds, *news]
            for one in everyone:
                one.connection.close()
    ours, native_s = (statistics.median(cpu[name]) for name in ("old", "new"))
    note = f"native {1000 * native_s:.3g} ms, so {ours / native_s:.2g} x"
    return [Figure("server CPU per durable report of 200 kB in JSON", 1000 * ours, "ms", 8, note=note)]


async def measure_codec(_folder: Path) -> list[Figure]:
    """Megabytes of packed floats per second, beside a copy of the same bytes."""
    array = np.random.default_rng(1).standard_normal(1_000_000).astype(np.float32)
    megabytes = array.nbytes / 1e6
    data = write_state([array])

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(50):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return megabytes / min(times)

    copied = best(lambda: bytes(memoryview(data)))
    written = best(lambda: b"".join(state_pieces([array])))
    read = best(lambda: read_state(data)[0].sum())
    note = f"a copy: {copied:.3g} MB/s"
    return [
        Figure("State of 4 MB, written", written, "MB/s", 500, at_least=True, note=note),
        Figure("State of 4 MB, read and summed", read, "MB/s", 500, at_least=True, note=note),
    ]


async def measure_model(folder: Path, num_downloads: int = NUM_DOWNLOADS) -> list[Figure]:
    """CPU of a download of a checkpoint that was served before, beside the native one."""
    with await asyncio.to_thread(start_domain, folder) as domain:
        token = await _owner(domain.address)
        old = await _host_old(domain.address, token, "old")
        new = await host(domain.address, token, "new", model_bytes(SMALL), plan_bytes(SMALL), CONFIG)
        devices: list[Device] = [
            *await _old_devices(domain.address, old, 1),
            *await open_devices(domain.address, new, 1),
        ]
        accepted = [await device.join() for device in devices]
        cpu: list[list[float]] = [[], []]
        for repeat in range(REPEATS + 1):
            for kind, (device, found) in enumerate(zip(devices, accepted, strict=True)):
                before = domain.cpu_s
                for _ in range(num_downloads):
                    await device.download(found)
                if repeat:  # the first round fills the caches
                    cpu[kind].append((domain.cpu_s - before) / num_downloads)
    ours, native_s = (statistics.median(values) for values in cpu)
    note = f"{1e6 * ours:.3g} and {1e6 * native_s:.3g} us of CPU"
    return [Figure("get-model of a served checkpoint, over the native one", ours / native_s, "x", 1.5, note=note)]


async def measure_burst(folder: Path, num_at_once: int = NUM_AT_ONCE) -> list[Figure]:
    """The longest wait of a native device while 200 accounts sign up and 200 clients of 2020 take part.

    The device has another address than the others, because the requests of one address wait for each other.
    """
    with await asyncio.to_thread(start_domain, folder) as domain:
        token = await _owner(domain.address)
        old = await _host_old(domain.address, token, "old")
        new = await host(domain.address, token, "new", model_bytes(SMALL), plan_bytes(SMALL), CONFIG)
        diff = _old_diff()
        (native,) = await open_devices(domain.address, new, 1, source="127.0.0.2")
        connections = [await Connection.open(domain.address) for _ in range(2 * num_at_once)]
        waits: list[float] = []
        is_over = False

        async def poll() -> None:
            while not is_over:
                began = time.perf_counter()
                await native.join()
                waits.append(time.perf_counter() - began)

        async def enroll(number: int) -> None:
            account = {"email": f"user{number}@example.org", "password": "correct horse battery staple"}
            await connections[number].post_json("/users", account, expect=(200, 201, 429, 503))

        async def take_part(number: int) -> None:
            device = OldDevice(connections[num_at_once + number], old)
            await device.authenticate()
            found = await device.join()
            await device.download(found)
            await device.send(found["request_key"], diff)

        polling = asyncio.create_task(poll())
        began = time.perf_counter()
        works: list[Awaitable[None]] = [
            *(enroll(number) for number in range(num_at_once)),
            *(take_part(number) for number in range(num_at_once)),
        ]
        await asyncio.gather(*works)
        whole_s = time.perf_counter() - began
        is_over = True
        await polling
    note = f"{len(waits)} requests in {whole_s:.3g} s"
    return [
        Figure(
            "longest cycle request beside 200 sign-ups and 200 old clients of another address",
            max(waits),
            "s",
            1,
            note=note,
        )
    ]


async def measure_many(folder: Path, num_devices: int = NUM_AT_ONCE, size: int = LARGE) -> list[Figure]:
    """Peak memory of the server while many devices of one address report a large model at once."""
    figures, reports = [], Reports(size)
    for over in ("http", "websocket"):
        with await asyncio.to_thread(start_domain, folder / over) as domain:
            process = await host_large(domain.address, await _owner(domain.address), "large", size)
            devices = await admit(domain.address, process, num_devices)
            before = domain.held_bytes
            domain.forget_peak()
            began, cpu_s = time.perf_counter(), domain.cpu_s
            await asyncio.gather(*(reports.send(domain.address, *device, over) for device in devices))
            whole_s, cpu_s = time.perf_counter() - began, domain.cpu_s - cpu_s
            peak = domain.peak_bytes
            (cycle,) = await cycles(domain.address, process)
        if cycle["num_reports"] != num_devices:
            raise RuntimeError(f"{cycle['num_reports']} of {num_devices} reports were taken")
        shutil.rmtree(folder / over)
        rate = num_devices * reports.num_bytes / 1e6 / whole_s
        cpu_ms = 1000 * cpu_s / num_devices
        note = f"{before / 1e6:.0f} MB before; {whole_s:.3g} s, {rate:.3g} MB/s, {cpu_ms:.3g} ms of CPU each"
        what = f"peak memory, {num_devices} devices report {reports.num_bytes / 1e6:.3g} MB each over {over}"
        figures.append(Figure(what, peak / 1e6, "MB", 450, note=note))
    return figures


async def measure_step(_folder: Path) -> list[Figure]:
    """A step of the emitted MLP in the published client, beside hand-written actions."""
    if shutil.which("node") is None:
        print("| a step in tfjs | left out: no Node |")
        return []
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    emitted, written = await importlib.import_module("published_steps").time_steps()
    note = f"{emitted:.3g} and {written:.3g} ms"
    return [
        Figure("step of an emitted MLP in syft.js, over a hand-written one", emitted / written, "x", 1.5, note=note)
    ]


PARTS: dict[str, Measure] = {
    "report": measure_report,
    "codec": measure_codec,
    "model": measure_model,
    "burst": measure_burst,
    "many": measure_many,
    "step": measure_step,
}


if __name__ == "__main__":
    sys.exit(measure_parts("Measure what clients of 2020 cost, beside native devices.", PARTS))
