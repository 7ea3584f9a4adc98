"""Rows of accepted reports: a batch beside one after the other, and two writing processes beside one.

    python benchmarks/writes.py [--reports 4096] [--folder .pygrid/bench] [--repeat 3]

Claim 1, on SQLite: accepting reports in batches of 128 takes at most 0.65 of the CPU of one unit each in the same
transaction. "Before" are the four statements a report of version 0.1. "One by one" is a batch of one item each.
Claim 2, on PostgreSQL: two processes that accept reports into the same eight cycles store at least 1.5 times as many
rows a second as one, without a deadlock. Only rows are written, so no file is synced. The reports come in a random
order, and each process has `WAITING` of them in its lane, as from 1,024 devices. "Apart" are two processes with four
cycles each, which never wait for each other. "Bare" are the same rows, in as many to a transaction, written by psycopg
without any code of ours, into a table for each process. What "apart" and "bare" gain is what the machine has left for a
second writer: with "cores" busy of those that it has, one writer uses most of them already.

All sides run in turn, in one run; the medians of their ratios are printed. PostgreSQL comes with the tests' extra.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa
import uvloop

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from pygrid.configuration import read_server_config  # noqa: E402
from pygrid.core import cycles as rules  # noqa: E402
from pygrid.core.cycles import AssignmentState, Cycle  # noqa: E402
from pygrid.storage import cycles as rows  # noqa: E402
from pygrid.storage import reports  # noqa: E402
from pygrid.storage.report_batches import AcceptReports, OfferedReport  # noqa: E402
from pygrid.storage.sql.database import Database  # noqa: E402
from pygrid.storage.sql.migrations import migrate  # noqa: E402
from pygrid.storage.sql.prepared import Prepared  # noqa: E402
from support.cycle_rows import NOW, offer, put_process  # noqa: E402
from support.postgres import PostgresServer  # noqa: E402

BATCH = 128
WAITING = 1024
NUM_CYCLES = 8
FIELDS = {"cycle_length": None, "max_workers": 10**6}
MAX_RATIO, MIN_GAIN = 0.65, 1.5
_MARK = Prepared(
    reports.assignments.update()
    .where(reports.assignments.c.id == sa.bindparam("assignment_id"))
    .values(state=AssignmentState.REPORTED.value)
)
_COUNT = Prepared(
    rows.cycles.update()
    .where(rows.cycles.c.id == sa.bindparam("of_cycle"))
    .values(num_reports=rows.cycles.c.num_reports + 1)
)
_PUT = Prepared.insert(reports.reports, "received_at", *reports.Report.__dataclass_fields__)

Accept = Callable[[sa.Connection, Sequence[OfferedReport]], None]


def fill(connection: sa.Connection, num_cycles: int, num_each: int) -> list[OfferedReport]:
    """Cycles of processes of their own, with clients that have not reported; returns a report of each, in turn."""
    offered = []
    for number in range(num_cycles):
        config, cycle = put_process(connection, f"process {number}", FIELDS)
        names = [f"{cycle.id}-{client}" for client in range(num_each)]
        client_rows = [{"id": name, "process_id": cycle.process_id, "created_at": NOW} for name in names]
        connection.execute(rows.clients.insert(), client_rows)
        fields = {"cycle_id": cycle.id, "state": "assigned", "created_at": NOW}
        assigned = [{**fields, "client_id": name, "key_hash": f"{name:0>64}"} for name in names]
        connection.execute(reports.assignments.insert(), assigned)
        connection.execute(rows.cycles.update().where(rows.cycles.c.id == cycle.id).values(num_assigned=num_each))
        known = reports.find_assignments(connection, [row["key_hash"] for row in assigned])
        offered.append([offer(config, cycle, one.id, key) for key, one in known.items()])
    return [one for together in zip(*offered, strict=True) for one in together]


def in_batches(connection: sa.Connection, items: Sequence[OfferedReport]) -> None:
    AcceptReports(lambda: NOW).run(connection, items)


def one_by_one(connection: sa.Connection, items: Sequence[OfferedReport]) -> None:
    accepting = AcceptReports(lambda: NOW)
    for item in items:
        accepting.run(connection, [item])


def as_before(connection: sa.Connection, items: Sequence[OfferedReport]) -> None:
    """The statements of version 0.1: find, insert, mark, count."""
    for item in items:
        found = reports.find_by_key(connection, item.key_hash)
        assert found is not None
        assignment, cycle = found
        redeemed = rules.redeem(cycle, item.config, assignment, NOW, item.report.fingerprint)
        assert redeemed == rules.Redeemed(repeated=False)
        _PUT.run(connection, {"received_at": NOW, **asdict(item.report)})
        _MARK.run(connection, {"assignment_id": item.report.id})
        _COUNT.run(connection, {"of_cycle": cycle.id})
        counted: Cycle = rules.count_report(cycle)
        rules.due(counted, item.config, NOW)


def cpu_of(folder: Path, accept: Accept, num_reports: int) -> float:
    """Milliseconds of CPU a report, commits included, on a new SQLite file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        database = Database(f"sqlite:///{place}/rows.db")
        migrate(database)
        items = database.write_now(lambda connection: fill(connection, 1, num_reports))
        began = time.process_time()
        for start in range(0, num_reports, BATCH):
            batch = items[start : start + BATCH]
            database.write_now(lambda connection, batch=batch: accept(connection, batch))  # type: ignore[misc]
        took = time.process_time() - began
        database.close()
    return 1000 * took / num_reports


def compare_on_sqlite(folder: Path, num_reports: int, repeat: int) -> float:
    """Print the CPU of the three ways; returns the median of batch over before."""
    took: dict[str, list[float]] = {}
    ways: dict[str, Accept] = {"before": as_before, "one by one": one_by_one, "batch": in_batches}
    for _ in range(repeat):
        for name, accept in ways.items():
            took.setdefault(name, []).append(cpu_of(folder, accept, num_reports))
    for name, values in took.items():
        print(f"  {name:11} {statistics.median(values):.4f} ms CPU a report")
    ratios = {
        name: statistics.median(b / a for a, b in zip(took[name], took["batch"], strict=True))
        for name in ("before", "one by one")
    }
    print(f"  batch / before      {ratios['before']:.2f}   (at most {MAX_RATIO})")
    print(f"  batch / one by one  {ratios['one by one']:.2f}")
    return ratios["before"]


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def write_bare(url: str, share: int, num_reports: int) -> None:
    """Write rows like those of reports into a new table, and print as `write_share`."""
    import psycopg

    columns = ", ".join(f"c{number} bigint" for number in range(8))
    row = ("x" * 64, "y" * 64, *range(8))
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(f"CREATE TABLE bare_{share} (id bigserial PRIMARY KEY, a text, b text, {columns})".encode())
        insert = f"INSERT INTO bare_{share} (a, b, {columns.replace(' bigint', '')}) VALUES (" + "%s, " * 9 + "%s)"
        connection.commit()
        print("ready", flush=True)
        sys.stdin.readline()
        began, cpu_before = time.perf_counter(), time.process_time()
        for _ in range(0, num_reports, BATCH):
            connection.cursor().executemany(insert.encode(), [row] * BATCH)
            connection.commit()
        print(time.perf_counter() - began, time.process_time() - cpu_before, flush=True)


def write_share(url: str, share: int, num_shares: int, *, is_apart: bool) -> None:
    """Accept a share of the reports; waits for a line on stdin, and prints the seconds it took, and those of CPU.

    Args:
        is_apart: the share has cycles of its own; else it has every ``num_shares``-th report of each cycle.
    """
    database = Database(url)

    def load(connection: sa.Connection) -> list[OfferedReport]:
        found = connection.execute(
            sa.select(reports.assignments.c.id, reports.assignments.c.key_hash, *rows.CYCLE_COLUMNS)
            .join(rows.cycles, rows.cycles.c.id == reports.assignments.c.cycle_id)
            .order_by(reports.assignments.c.client_id)
        ).all()
        config = read_server_config(FIELDS)
        return [offer(config, rows.read_cycle(row[2:]), row[0], row[1]) for row in found]

    items = database.read_now(load)
    random.Random(1).shuffle(items)  # in each process alike
    if is_apart:
        items = [one for one in items if one.report.cycle_id % num_shares == share]
    else:
        items = items[share::num_shares]
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu_before = time.perf_counter(), time.process_time()
    uvloop.run(_accept(database, items))
    print(time.perf_counter() - began, time.process_time() - cpu_before, flush=True)
    database.close()


async def _accept(database: Database, items: Sequence[OfferedReport]) -> None:
    accepting, left = AcceptReports(lambda: NOW), iter(items)

    async def device() -> None:
        for item in left:
            await database.write_all(accepting, item, item.report.cycle_id)

    await asyncio.gather(*(device() for _ in range(WAITING)))


@dataclass(frozen=True)
class Run:
    """What the writers of one new database needed."""

    rate: float
    """Reports a second."""
    cores: float
    """CPU seconds a second, of the writers and of PostgreSQL."""
    num_deadlocks: int


def run_writers(server: PostgresServer, name: str, num_reports: int, num_writers: int, way: str = "") -> Run:
    """Let processes write to one new database: in the ``way`` of the lanes, ``apart`` or ``bare``."""
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = server.url.replace("/postgres?", f"/{name}?")
    database = Database(url)
    migrate(database)
    database.write_now(lambda connection: fill(connection, NUM_CYCLES, num_reports // NUM_CYCLES))
    command = [sys.executable, __file__, "--url", url, "--reports", str(num_reports), "--way", way]
    writers = [
        subprocess.Popen(
            [*command, "--share", str(share), "--shares", str(num_writers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in range(num_writers)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    cpu_before = server.cpu_s()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    told = [tuple(map(float, writer.communicate()[0].split())) for writer in writers]

    def check(connection: sa.Connection) -> int:
        stored = connection.execute(sa.select(sa.func.count()).select_from(reports.reports)).scalar_one()
        counted = connection.execute(sa.select(sa.func.sum(rows.cycles.c.num_reports))).scalar_one()
        assert way == "bare" or stored == counted == num_reports, (stored, counted)
        deadlocks = sa.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(connection.execute(deadlocks).scalar_one())

    cpu_s = server.cpu_s() - cpu_before + sum(cpu_s for _, cpu_s in told)
    num_deadlocks = database.read_now(check)
    database.close()
    wall_s = max(wall_s for wall_s, _ in told)
    return Run(num_reports / wall_s, cpu_s / wall_s, num_deadlocks)


def compare_on_postgresql(num_reports: int, repeat: int) -> tuple[float, int]:
    """Print the rates of one and of two writers; returns the median of their ratios, and the deadlocks."""
    turns: list[dict[str, Run]] = []
    with PostgresServer() as server:
        for turn in range(repeat):
            turns.append(
                {
                    f"{number} {way}".strip(): run_writers(server, f"x{turn}_{number}_{way}", num_reports, number, way)
                    for way in ("", "apart", "bare")
                    for number in ((2,) if way == "apart" else (1, 2))
                }
            )
            print(
                "  "
                + "   ".join(f"{name}: {run.rate:,.0f}/s, {run.cores:.1f} cores" for name, run in turns[-1].items())
            )
    gain = statistics.median(runs["2"].rate / runs["1"].rate for runs in turns)
    apart = statistics.median(runs["2 apart"].rate / runs["1"].rate for runs in turns)
    bare = statistics.median(runs["2 bare"].rate / runs["1 bare"].rate for runs in turns)
    num_deadlocks = sum(run.num_deadlocks for runs in turns for run in runs.values())
    print(f"  two / one           {gain:.2f}   (at least {MIN_GAIN}); {num_deadlocks} deadlocks (0)")
    print(f"  two apart / one     {apart:.2f}")
    print(f"  two bare / one bare {bare:.2f}")
    return gain, num_deadlocks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    for name, kind in (("--url", str), ("--way", str), ("--share", int), ("--shares", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--only-postgresql", action="store_true")
    options = parser.parse_args()
    if options.url:
        if options.way == "bare":
            write_bare(options.url, options.share, options.reports // options.shares)
        else:
            write_share(options.url, options.share, options.shares, is_apart=options.way == "apart")
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"accepting {options.reports} reports on SQLite, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    ratio = 0.0 if options.only_postgresql else compare_on_sqlite(options.folder, options.reports, options.repeat)
    print(f"eight hot cycles on PostgreSQL, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}")
    gain, num_deadlocks = compare_on_postgresql(4 * options.reports, options.repeat)
    return 0 if ratio <= MAX_RATIO and gain >= MIN_GAIN and not num_deadlocks else 1


if __name__ == "__main__":
    sys.exit(main())
