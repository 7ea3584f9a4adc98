"""How long a cycle takes to complete when two replicas took its reports, over one replica that took all of them.

    python benchmarks/closing.py

Reports of 10 MB, with rows in PostgreSQL and files in SeaweedFS, both on this machine. The replica that takes the last
report completes the cycle. Three sides in each round, in another order each time:

    alone   this replica took all reports, so its sum has them
    sums    the other one took half of them, and has stored partial sums
    read    the same, but its partial sums are removed before the last report, so its reports are read from the bucket

The time is that of the metric ``pygrid_cycle_completion_seconds``. Exit code 1: the budget was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import httpx
import sqlalchemy as sa
import uvloop

from loadgen import Address, Connection, Process, host, open_devices, sign_up
from pygrid.storage.partials import partials
from pygrid.storage.sql.database import Database
from server_process import leave_nothing_behind, start_domain
from support import stores
from support.eventually import eventually
from support.postgres import PostgresServer
from vector_model import diff_bytes, model_bytes, plan_bytes

SIZE = 2_500_000
SIDES = ("alone", "sums", "read")
BUDGET = 1.3
"""Time of ``sums`` over that of ``alone``."""
AT_ONCE = 4
RULE = {"name": "mean", "weights": "equal", "bound": None}
"""No report is read a second time because it is shortened."""
_TOTAL = re.compile(r"^pygrid_cycle_completion_seconds_sum (\S+)$", re.MULTILINE)


class Site:
    """Two replicas, the first of which leads."""

    def __init__(self, replicas: list[Address], token: str, database: Database) -> None:
        self.replicas, self.token, self.database = replicas, token, database

    async def complete(self, side: str, name: str, num_reports: int) -> float:
        """Seconds that the completion of a new cycle takes."""
        config = {"max_diffs": num_reports, "num_cycles": 1, "cycle_length": None, "aggregation": RULE}
        leader = self.replicas[0]
        process = await host(leader, self.token, name, model_bytes(SIZE), plan_bytes(SIZE), config)
        devices = await open_devices(leader, process, num_reports)
        keys = [(await device.join())["request_key"] for device in devices]
        for device in devices:
            device.connection.close()
        body, last = diff_bytes(SIZE), keys.pop()
        takers = [self.replicas[0 if side == "alone" else number % 2] for number in range(AT_ONCE)]
        connections = [await Connection.open(address) for address in takers]

        async def report(number: int) -> None:
            for key in keys[number::AT_ONCE]:
                await connections[number].request("POST", "/model-centric/report", body, bearer=key)

        await asyncio.gather(*map(report, range(AT_ONCE)))
        await asyncio.sleep(1)  # sums that are due are stored, and reports are folded
        if side == "read":
            await self.database.write(lambda connection: connection.execute(partials.delete()))
        before = await self._completed_s()
        await connections[0].request("POST", "/model-centric/report", body, bearer=last)
        await eventually(lambda: self._is_finished(process), 300)
        for connection in connections:
            connection.close()
        return await self._completed_s() - before

    async def _completed_s(self) -> float:
        async with httpx.AsyncClient() as web:
            answers = [await web.get("http://{}:{}/metrics".format(*address)) for address in self.replicas]
        return sum(float(found[1]) for answer in answers if (found := _TOTAL.search(answer.text)))

    async def _is_finished(self, process: Process) -> bool:
        state = sa.text("SELECT state FROM cycles WHERE process_id = :id")
        rows = await self.database.read(
            lambda connection: connection.execute(state, {"id": process.id}).scalars().all()
        )
        return list(rows) == ["completed"]


async def measure(folder: Path, rounds: int, num_reports: int) -> dict[str, list[float]]:
    """Seconds of each side, once for each round."""
    with ExitStack() as stack:
        postgres, store = stack.enter_context(PostgresServer()), stack.enter_context(stores.Seaweed())
        environment = {
            **stores.CREDENTIALS,
            "SECRET_KEY": "k" * 32,
            "DATABASE_URL": postgres.url,
            "PYGRID_STORE": stores.new_address(store.endpoint).url,
            "PYGRID_S3_ENDPOINT": store.endpoint,
            "PYGRID_S3_PATH_STYLE": "1",
        }
        servers = []
        for number in range(2):
            servers.append(await asyncio.to_thread(start_domain, folder / str(number), 0, environment))
            stack.callback(servers[-1].stop)
        addresses = [server.address for server in servers]
        database = Database(postgres.url)
        stack.callback(database.close)
        site = Site(
            addresses, await sign_up(addresses[0], "owner@example.org", "correct horse battery staple"), database
        )
        found: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES[number % 3 :] + SIDES[: number % 3]:
                found[side].append(await site.complete(side, f"{side}-{number}", num_reports))
                print(f"{side}: {found[side][-1]:.2f} s", file=sys.stderr, flush=True)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Time of a completion with partial sums, over one replica alone.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reports", type=int, default=100, help="reports of a cycle (default 100)")
    options = parser.parse_args()
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-closing-") as folder:
        found = uvloop.run(measure(Path(folder), options.rounds, options.reports))
    medians = {side: statistics.median(times) for side, times in found.items()}
    ratio = medians["sums"] / medians["alone"]
    print(", ".join(f"{side} {value:.2f} s" for side, value in medians.items()))
    print(f"sums over alone: {ratio:.2f} (budget {BUDGET}); read over alone: {medians['read'] / medians['alone']:.2f}")
    return 1 if ratio > BUDGET else 0


if __name__ == "__main__":
    sys.exit(main())
