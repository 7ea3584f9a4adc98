"""CPU per report of a Domain of one commit, over one of another commit, with SQLite and files.

    python benchmarks/versions.py 'b36d93ad^' HEAD                 100 devices at once
    python benchmarks/versions.py 'b36d93ad^' HEAD --devices 1     one after the other

Both Domains run at the same time, and get the same reports of 200 kB in turn, in another order each time. So the ratio
is valid on a busy machine, and the milliseconds are not. The measure is that of `reports.py`. The packages are those of
this environment. Exit code 1: the median of the ratios is above 1.03.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop

from reports import load_domain, sign_up_owner
from server_process import ServerProcess, extract_commit, leave_nothing_behind, start_domain

BUDGET = 1.03


def start_commit(commit: str, folder: Path) -> ServerProcess:
    """A Domain of a commit."""
    return start_domain(folder / "data", 0, {"PYTHONPATH": str(extract_commit(commit, folder / "tree"))})


async def measure(commits: list[str], folder: Path, rounds: int, num_devices: int) -> list[list[float]]:
    """Milliseconds of CPU per report, of each commit in each round. A first round is not counted."""
    num_reports = 100 if num_devices == 1 else 2 * num_devices
    found: list[list[float]] = [[] for _ in commits]
    with ExitStack() as stack:
        servers = [stack.enter_context(start_commit(commit, folder / str(n))) for n, commit in enumerate(commits)]
        tokens = [await sign_up_owner(server.address) for server in servers]
        for turn in range(rounds + 1):
            for n in sorted(range(len(commits)), reverse=turn % 2 == 1):
                load = await load_domain(servers[n], tokens[n], f"round {turn}", num_reports, num_devices)
                if turn:
                    found[n].append(1000 * load.cpu_s)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--devices", type=int, default=100, help="that report at once (default 100)")
    options = parser.parse_args()
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-versions-", dir="/var/tmp") as folder:
        commits = [options.before, options.after]
        before, after = uvloop.run(measure(commits, Path(folder), options.rounds, options.devices))
    ratios = sorted(new / old for old, new in zip(before, after, strict=True))
    ratio = statistics.median(ratios)
    quarter = len(ratios) // 4
    print(f"{options.before}: {statistics.median(before):.3f} ms, {options.after}: {statistics.median(after):.3f} ms")
    print(f"after / before: {ratio:.3f} (at most {BUDGET})")
    print(f"half of the ratios are from {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}")
    return 1 if ratio > BUDGET else 0


if __name__ == "__main__":
    sys.exit(main())
