"""What a report costs a Domain with its files in a bucket and its rows in PostgreSQL, beside files and SQLite.

The bucket and the database are those of the environment, as for `pygrid domain`:

    export PYGRID_STORE=s3://... DATABASE_URL=postgresql://... SECRET_KEY=...   (and PYGRID_S3_*, AWS_*)
    python benchmarks/store.py

100 devices report 200 kB each. CPU is that of the server until the checkpoint is stored; the database and the store
have their own. Both must be empty. Exit code 1: the budget was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

import uvloop

from reports import load_domain, sign_up_owner
from server_process import ServerProcess, leave_nothing_behind, start_domain

NUM_DEVICES = 100
BUDGET = 1.6
"""CPU per report, with a bucket and PostgreSQL, over that with files and SQLite."""
OF_THE_STORE = ("PYGRID_STORE", "DATABASE_URL")


def start_both(folder: Path) -> dict[str, ServerProcess]:
    """A Domain with a bucket, and one with files, whose environment lacks the bucket and the database."""
    with_store = start_domain(folder / "store")
    kept = {name: os.environ.pop(name) for name in OF_THE_STORE}
    try:
        return {"store": with_store, "files": start_domain(folder / "files")}
    except BaseException:
        with_store.kill()
        raise
    finally:
        os.environ.update(kept)


async def measure(folder: Path, rounds: int, num_reports: int) -> list[float]:
    """The ratio of CPU per report, once for each round; the first round warms up."""
    servers = await asyncio.to_thread(start_both, folder)
    try:
        tokens = {name: await sign_up_owner(server.address) for name, server in servers.items()}
        ratios = []
        for number in range(rounds + 1):
            cpu_s = {}
            for name in ("files", "store") if number % 2 else ("store", "files"):
                load = await load_domain(servers[name], tokens[name], f"round-{number}", num_reports, NUM_DEVICES)
                cpu_s[name] = load.cpu_s
            print(", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in sorted(cpu_s.items())))
            ratios.append(cpu_s["store"] / cpu_s["files"])
        return ratios[1:]
    finally:
        for server in servers.values():
            server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU per report with a bucket and PostgreSQL, over files and SQLite.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reports", type=int, default=400, help="reports of a round (default 400)")
    options = parser.parse_args()
    if missing := [name for name in (*OF_THE_STORE, "SECRET_KEY") if not os.environ.get(name)]:
        parser.error(f"set {', '.join(missing)}; the head of this file says how")
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-store-") as folder:
        ratios = uvloop.run(measure(Path(folder), options.rounds, options.reports))
    ratio = statistics.median(ratios)
    print(f"CPU per report, store over files: {ratio:.2f} (median of {len(ratios)}; budget {BUDGET})")
    return 1 if ratio > BUDGET else 0


if __name__ == "__main__":
    sys.exit(main())
