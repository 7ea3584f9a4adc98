"""Kill a Domain at random moments while devices report, and prove that no acknowledged report is lost or counted twice.

Every report is a mark: its diff is 1 at one coordinate of its own and 0 elsewhere. Averaging n reports moves each
coordinate of the model by 1/n, once, in one checkpoint; so the checkpoints tell which reports were counted, how often
and where.

    acknowledged    in exactly one checkpoint, once
    refused (410)   in none
    the rest        had no answer when the run ended: in at most one

`kill -9` ends the process, not the operating system: bytes handed to the system survive it, synced or not. What a power
cut would do is a question to fdatasync, which this can't ask.

    python benchmarks/crash.py --kills 100
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

from loadgen import Address, Connection, Device, Process, RequestFailed, checkpoint, cycles, host, sign_up
from pygrid.tensors import decode, encode
from server_process import leave_nothing_behind, start_domain
from vector_model import NAME, model_bytes, plan_bytes

SERVER_CONFIG: dict[str, Any] = {
    "cycle_length": 3.0,
    "max_diffs": 4,
    "max_workers": 7,
    "min_diffs": 1,
    "grace_s": 0.02,
    "late_first_s": 0.5,
    "outlier_factor": None,
}
"""Cycles end at ``max_diffs`` with a short grace period, so that some reports come in it, and some after it."""
NUM_DEVICES = 8
MAX_UPTIME_S = 1.0
"""The server is killed at a moment drawn evenly from its first second."""
GONE = 410
MAX_KILLS_FACTOR = 10
"""There are more kills than asked, up to this many times as many, while none has interrupted a report."""


@dataclass
class Marks:
    """What became of each mark, as far as the devices know."""

    size: int
    acknowledged: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)
    num_retried: int = 0
    next: int = 0

    def draw(self) -> int:
        """A mark that was never used."""
        mark, self.next = self.next, self.next + 1
        if mark >= self.size:
            raise RuntimeError(f"all {self.size} marks are used; take a larger model")
        self.unanswered.add(mark)
        return mark

    def settle(self, mark: int, into: set[int]) -> None:
        self.unanswered.discard(mark)
        into.add(mark)


@dataclass(frozen=True)
class CrashResult:
    """What a run found; ``problems`` is empty if every promise was kept."""

    num_kills: int
    num_acknowledged: int
    num_refused: int
    num_unanswered: int
    num_retried: int
    num_checkpoints: int
    restart_s: float
    """Median time from the start of a process to its being ready."""
    problems: list[str]


class Reporter:
    """A device that reports marks until told to stop, and carries a report through as many crashes as it takes."""

    def __init__(self, address: Address, process: Process, marks: Marks, size: int, stop: asyncio.Event) -> None:
        self._address = address
        self._process = process
        self._marks = marks
        self._size = size
        self._stop = stop
        self._device: Device | None = None
        self._worker_id = ""
        self._pending: tuple[str, int] | None = None

    async def run(self) -> None:
        while not self._stop.is_set() or self._pending is not None:
            try:
                await self._step(await self._connected())
            except OSError:
                if self._device is not None:
                    self._device.connection.close()
                self._device = None
                self._marks.num_retried += self._pending is not None
                await asyncio.sleep(0.02)

    async def _connected(self) -> Device:
        if self._device is None:
            device = Device(await Connection.open(self._address), self._process)
            device.worker_id = self._worker_id
            if not self._worker_id:
                await device.authenticate()
                self._worker_id = device.worker_id
            self._device = device
        return self._device

    async def _step(self, device: Device) -> None:
        if self._pending is None:
            answer = await device.join(wait_s=1.0)
            if answer["status"] != "accepted":
                return
            self._pending = (answer["request_key"], self._marks.draw())
            await self._prepare(device, answer)
        key, mark = self._pending
        try:
            await device.report(key, self._body(mark))
            self._marks.settle(mark, self._marks.acknowledged)
        except RequestFailed as failure:
            if failure.status != GONE:
                raise
            self._marks.settle(mark, self._marks.refused)
        self._pending = None

    async def _prepare(self, device: Device, acceptance: dict[str, Any]) -> None:
        """What a device does before it reports; nothing here."""

    def _body(self, mark: int) -> bytes:
        diff = np.zeros(self._size, np.float32)
        diff[mark] = 1.0
        return encode({NAME: diff}, {"num_examples": "1"})


async def run(
    folder: Path,
    *,
    num_kills: int,
    seed: int,
    size: int = 20_000,
    num_devices: int = NUM_DEVICES,
    loses_disk: bool = False,
) -> CrashResult:
    """Host a model of ``size`` coordinates, report and kill ``num_kills`` times, finish, and count.

    Args:
        loses_disk: the data folder is removed at each kill; the environment names a database and a bucket.

    Raises:
        RequestFailed: a device got an answer that the protocol does not allow here.
        RuntimeError: the server did not come up again.
    """
    rng = random.Random(seed)
    # Shielded, so that a server that is just being started when this is cancelled is known, and ended, too.
    starting = asyncio.ensure_future(asyncio.to_thread(start_domain, folder))
    try:
        server = await asyncio.shield(starting)
        address = server.address
        token = await sign_up(address, "owner@example.org", "correct horse battery staple")
        process = await host(address, token, "marks", model_bytes(size), plan_bytes(size), SERVER_CONFIG)
        marks, stop = Marks(size), asyncio.Event()
        restarts: list[float] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(num_devices):
                group.create_task(Reporter(address, process, marks, size, stop).run())
            # On a busy machine, the first kills may all come before a report.
            while len(restarts) < num_kills or (not marks.num_retried and len(restarts) < MAX_KILLS_FACTOR * num_kills):
                await asyncio.sleep(rng.uniform(0.0, MAX_UPTIME_S))
                server.kill()
                if loses_disk:
                    shutil.rmtree(folder)
                begin = time.perf_counter()
                starting = asyncio.ensure_future(asyncio.to_thread(start_domain, folder, address[1]))
                server = await asyncio.shield(starting)
                restarts.append(time.perf_counter() - begin)
            await asyncio.sleep(MAX_UPTIME_S)
            stop.set()
        await _finish(address, process)
        return await _verify(address, process, marks, restarts)
    finally:
        (await starting).stop()


async def _finish(address: Address, process: Process) -> None:
    """End the process, which completes its open cycle, and wait until that is done."""
    connection = await Connection.open(address)
    await connection.request("POST", f"/model-centric/processes/{process.id}/finish", bearer=process.token)
    for _ in range(200):
        answer = await connection.request("GET", f"/model-centric/processes/{process.id}", bearer=process.token)
        info = answer.json()
        if info["state"] == "finished" and (info["cycle"] is None or info["cycle"]["state"] != "closing"):
            connection.close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the process did not finish within 20 seconds")


async def _verify(address: Address, process: Process, marks: Marks, restarts: list[float]) -> CrashResult:
    # A cycle that was finished before its first report made no checkpoint.
    completed = [
        cycle for cycle in await _all_cycles(address, process) if cycle["state"] == "completed" and cycle["num_reports"]
    ]
    checkpoints = [await _model(address, process, number + 1) for number in range(len(completed) + 1)]
    return CrashResult(
        num_kills=len(restarts),
        num_acknowledged=len(marks.acknowledged),
        num_refused=len(marks.refused),
        num_unanswered=len(marks.unanswered),
        num_retried=marks.num_retried,
        num_checkpoints=len(checkpoints),
        restart_s=float(np.median(restarts)) if restarts else 0.0,
        problems=find_problems(checkpoints, [cycle["num_reports"] for cycle in completed], marks),
    )


def find_problems(checkpoints: list[npt.NDArray[np.float64]], num_reports: list[int], marks: Marks) -> list[str]:
    """Every way in which the checkpoints contradict what the devices were told; in words, none if all is well.

    Args:
        checkpoints: the model before the first cycle, and after each.
        num_reports: of each cycle, as the Domain tells.
    """
    problems: list[str] = []
    counted: Counter[int] = Counter()
    for number, (before, after, num) in enumerate(
        zip(checkpoints, checkpoints[1:], num_reports, strict=False), start=2
    ):
        shares = (before - after) * num
        found = np.flatnonzero(shares)
        for mark in found:
            # 1/n in float32, times n: off by less than one part in ten million.
            if abs(shares[mark] - 1.0) > 1e-5:
                problems.append(f"checkpoint {number} holds mark {mark} {shares[mark]:.4f} times")
        if len(found) != num:
            problems.append(f"checkpoint {number} is said to hold {num} reports, and holds {len(found)}")
        counted.update(found.tolist())
    problems += [
        f"acknowledged mark {m} is in {counted[m]} checkpoints" for m in sorted(marks.acknowledged) if counted[m] != 1
    ]
    problems += [f"refused mark {m} is in {counted[m]} checkpoints" for m in sorted(marks.refused) if counted[m] != 0]
    problems += [
        f"unanswered mark {m} is in {counted[m]} checkpoints" for m in sorted(marks.unanswered) if counted[m] > 1
    ]
    return problems


async def _all_cycles(address: Address, process: Process) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := await cycles(address, process, after=found[-1]["sequence"] if found else 0):
        found += page
    return found


async def _model(address: Address, process: Process, number: int) -> npt.NDArray[np.float64]:
    arrays, _ = decode(await checkpoint(address, process, number))
    return arrays[NAME].astype(np.float64)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill a Domain again and again while devices report to it, then count."
    )
    parser.add_argument("--kills", type=int, default=100, help="how often (default 100, about five minutes)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument(
        "--folder", type=Path, help="where the Domain keeps its data; on a real disk (default: a temporary one)"
    )
    options = parser.parse_args()
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-crash-", dir=options.folder) as folder:
        result = uvloop.run(run(Path(folder), num_kills=options.kills, seed=options.seed))
    print(
        f"{result.num_kills} kills; {result.num_acknowledged} reports acknowledged, {result.num_refused} refused, "
        f"{result.num_unanswered} without an answer, {result.num_retried} attempts repeated after a crash; "
        f"{result.num_checkpoints} checkpoints; ready again after {result.restart_s:.2f} s (median)"
    )
    for problem in result.problems:
        print(f"  {problem}")
    print(
        "every acknowledged report is in exactly one checkpoint" if not result.problems else "PROMISE BROKEN, see above"
    )
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
