"""What many associated Domains cost their Network while nobody asks anything: links, heartbeats, and keeping account of
them.

    python benchmarks/fleet.py [--domains 500] [--seconds 60]

Claim: 500 Domains with heartbeats at the default interval cost the Network less than 5 % of a core and less than 200
MB. The Network is a process of its own, started as a user starts it. The Domains are light ones in this process: each
has a key of its own, signs in as Domains do over a real WebSocket, and then beats as Domains do.

The baseline in the same run is the same Network before the first Domain came.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from figure import Figure
from loadgen import Connection
from pygrid.messages.associations import CONTROL_PATH
from pygrid.settings import NetworkSettings
from search import INVITATION, LightDomain
from server_process import ServerProcess, leave_nothing_behind

CPU_BUDGET_PERCENT = 5.0
MEMORY_BUDGET_MB = 200.0
_AT_ONCE = 20
COUNTS = {"datasets": 3, "models": 2, "processes": 1}


class BeatingDomain(LightDomain):
    """A Domain that does nothing but belong to a Network and tell it that it lives."""

    async def belong(self, network_url: str, interval_s: float) -> None:
        """Sign in, and beat from then on, first after a part of the interval, as if all had not come at once."""
        control = await self._dial(network_url.replace("http", "ws", 1) + CONTROL_PATH)
        await self._greet(control)
        link = self._link(control)
        self.num_beats = 0

        async def beat() -> None:
            await asyncio.sleep(random.random() * interval_s)
            while link.is_open:
                await link.ask("heartbeat", {"load": 0.1, "degraded": False, "counts": COUNTS, "catalog": "7"}, 10.0)
                self.num_beats += 1
                await asyncio.sleep(interval_s)

        self._beating = asyncio.create_task(beat())

    async def leave(self) -> None:
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        await super().leave()


async def _share(network: ServerProcess, seconds: float) -> float:
    """The part of a core, in percent, that the Network takes for so long."""
    cpu_s, start = network.cpu_s, time.perf_counter()
    await asyncio.sleep(seconds)
    return (network.cpu_s - cpu_s) / (time.perf_counter() - start) * 100


async def _check_all_online(network: ServerProcess, num_domains: int) -> None:
    """See that the Network sees every Domain well."""
    web = await Connection.open(network.address)
    answer = await web.request("GET", "/domains")
    web.close()
    states = [domain["state"] for domain in answer.json()["domains"]]
    assert states == ["online"] * num_domains, f"{states.count('online')} of {num_domains} are online"


async def measure(folder: Path, num_domains: int, seconds: float) -> list[Figure]:
    interval_s = float(NetworkSettings.heartbeat_s)
    command = ["env", f"PYGRID_INVITATION={INVITATION}", sys.executable, "-m", "pygrid"]
    command += ["network", "--port", "0", "--data-dir", str(folder)]
    with await asyncio.to_thread(ServerProcess, command, folder, "/readyz") as network:
        idle = await _share(network, min(seconds, 10.0))
        idle_mb = network.peak_bytes / 1e6
        url = "http://{}:{}".format(*network.address)
        domains = [BeatingDomain(number, 0.0) for number in range(num_domains)]
        turns = asyncio.Semaphore(_AT_ONCE)

        async def belong(domain: BeatingDomain) -> None:
            async with turns:
                await domain.belong(url, interval_s)

        cpu_s, start = network.cpu_s, time.perf_counter()
        await asyncio.gather(*(belong(domain) for domain in domains))
        join_s, join_cpu_ms = time.perf_counter() - start, (network.cpu_s - cpu_s) / num_domains * 1e3
        try:
            # Each has beaten once by then.
            await asyncio.sleep(min(seconds, interval_s + 1))
            share = await _share(network, seconds)
            await _check_all_online(network, num_domains)
        finally:
            for domain in domains:
                await domain.leave()
        num_beats = sum(domain.num_beats for domain in domains)
        return [
            Figure(
                f"{num_domains} Domains, a heartbeat each {interval_s:g} s: share of a core",
                share,
                "%",
                CPU_BUDGET_PERCENT,
                note=f"{share / 100 / (num_domains / interval_s) * 1e3:.2f} ms a heartbeat; without Domains {idle:.2f} "
                "%; "
                f"{num_beats} heartbeats answered",
            ),
            Figure(
                "the same: peak memory",
                network.peak_bytes / 1e6,
                "MB",
                MEMORY_BUDGET_MB,
                note=(
                    f"started {idle_mb:.0f} MB, so {(network.peak_bytes / 1e6 - idle_mb) / num_domains * 1e3:.0f} kB "
                    "a Domain"
                ),
            ),
            Figure(f"to let all {num_domains} in", join_s, "s", note=f"CPU of the Network {join_cpu_ms:.1f} ms each"),
        ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="What many associated Domains cost their Network.")
    parser.add_argument("--domains", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look on")
    given = parser.parse_args(arguments)
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="pygrid-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), given.domains, given.seconds))
    for figure in figures:
        print(figure.line())
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
