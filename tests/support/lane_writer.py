"""A process that writes random units in all lanes of a database: ``python -m support.lane_writer URL SEED NUM_UNITS``.

It writes more units than that while few reports were accepted. It prints as JSON: ids of accepted reports, values of
the counter that it incremented, and numbers of admitted clients and of audit entries.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pygrid.configuration import read_server_config
from pygrid.core.cycles import Cycle, CycleState
from pygrid.errors import PygridError
from pygrid.storage import audit, cycle_transitions, reports
from pygrid.storage import cycles as rows
from pygrid.storage.admission_batches import AdmitClients, Placed
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.processes import processes
from pygrid.storage.report_batches import AcceptReports
from pygrid.storage.sql.database import Database
from support.cycle_rows import NOW, offer, request

MIN_REPORTS, MAX_TURNS = 6, 20
CONFIG = read_server_config({"cycle_length": None, "max_diffs": 4, "max_workers": 12})
counters = sa.Table("counters", sa.MetaData(), sa.Column("value", sa.Integer, nullable=False))


class LaneUser:
    """Random units of one process."""

    def __init__(self, database: Database, folder: Path, seed: int) -> None:
        self._database = database
        self._writes = AuditedWrites(database, folder / "audit-head.json")
        self._choose = random.Random(seed)
        self._seed = seed
        self._accepting, self._admitting = AcceptReports(lambda: NOW), AdmitClients(lambda: NOW)
        self.told: dict[str, Any] = {"accepted": [], "taken": [], "admitted": 0, "entries": 0, "refused": []}

    async def run(self, num_units: int) -> None:
        """Run the units, eight at a time, and as many again until `MIN_REPORTS` were accepted."""
        for turn in range(MAX_TURNS):
            await self._run_units(range(turn * num_units, (turn + 1) * num_units))
            if len(self.told["accepted"]) >= MIN_REPORTS:
                return
        raise AssertionError(f"{len(self.told['accepted'])} reports were accepted in {MAX_TURNS * num_units} units")

    async def _run_units(self, numbers: range) -> None:
        busy = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            async with busy:
                kind = self._choose.choice([self._report, self._report, self._admit, self._count, self._append])
                try:
                    await kind(number)
                except PygridError as error:
                    self.told["refused"].append(error.code)
                await self._complete()

        await asyncio.gather(*(one(number) for number in numbers))

    async def _report(self, _number: int) -> None:
        """Report for clients of all processes at once, so that a batch has several cycles."""
        ready = sa.select(reports.assignments.c.id, reports.assignments.c.key_hash, *rows.CYCLE_COLUMNS).where(
            reports.assignments.c.cycle_id == rows.cycles.c.id,
            reports.assignments.c.state == "assigned",
            rows.cycles.c.state == CycleState.OPEN.value,
        )
        found = await self._database.read(lambda connection: connection.execute(ready).all())
        self._choose.shuffle(found)
        offered = [offer(CONFIG, rows.read_cycle(row[2:]), row[0], row[1], f"{self._seed}") for row in found[:6]]
        answers = await asyncio.gather(
            *(self._database.write_all(self._accepting, one) for one in offered), return_exceptions=True
        )
        for one, answer in zip(offered, answers, strict=True):
            if isinstance(answer, PygridError):
                self.told["refused"].append(answer.code)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self.told["accepted"].append(one.report.id)

    async def _admit(self, number: int) -> None:
        process_id = self._choose.randrange(1, 4)
        client = f"client {process_id} {self._choose.randrange(60)}"
        key = f"key {self._seed} {number}"
        answer = await self._database.write_all(self._admitting, request(CONFIG, process_id, client, key))
        self.told["admitted"] += isinstance(answer, Placed)

    async def _count(self, _number: int) -> None:
        def unit(connection: sa.Connection) -> int:
            value: int = connection.execute(sa.select(counters.c.value)).scalar_one()
            connection.execute(counters.update().values(value=value + 1))
            return value

        self.told["taken"].append(await self._database.write(unit))

    async def _append(self, number: int) -> None:
        def unit(connection: sa.Connection) -> None:
            audit.append(connection, "tried", {"number": number}, actor=None, now=NOW)

        await self._writes.write(unit)
        self.told["entries"] += 1

    async def _complete(self) -> None:
        """Complete what is closing, as any process may, and begin the next cycle."""
        found = await self._database.read(rows.list_unfinished_cycles)
        for cycle in found:
            if cycle.state is CycleState.CLOSING:
                await self._database.write(partial(self._end, cycle=cycle))

    @staticmethod
    def _end(connection: sa.Connection, cycle: Cycle) -> None:
        locked = rows.lock_cycle(connection, cycle.id)
        if locked.state is not CycleState.CLOSING:
            return
        reports.expire_assignments(connection, cycle.id)
        done = sa.update(rows.cycles).where(rows.cycles.c.id == cycle.id).values(state=CycleState.COMPLETED.value)
        connection.execute(done)
        rows.put_event(connection, cycle.process_id, cycle.sequence, "cycle_completed", NOW)
        cycle_transitions.begin_cycle(connection, cycle.process_id, CONFIG, cycle.sequence + 1, 1, NOW)


async def write(url: str, seed: int, num_units: int) -> dict[str, Any]:
    database = Database(url)
    with tempfile.TemporaryDirectory() as folder:
        user = LaneUser(database, Path(folder), seed)
        await user.run(num_units)
    database.close()
    return user.told


def prepare(connection: sa.Connection) -> None:
    """Three processes with sixty clients each, and a counter."""
    from support.cycle_rows import put_clients, put_process

    counters.create(connection)
    connection.execute(counters.insert().values(value=0))
    for number in range(3):
        _, cycle = put_process(connection, f"process {number}", {"max_diffs": 4, "max_workers": 12})
        put_clients(connection, cycle.process_id, 60)
    assert connection.execute(sa.select(sa.func.max(processes.c.id))).scalar_one() == 3


if __name__ == "__main__":
    print(json.dumps(asyncio.run(write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
