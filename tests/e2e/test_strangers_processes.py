"""A client without an account attacks a real Domain in each way that `benchmarks/strangers.py` knows, a second each.

Should happen: the Domain answers another client all the while, and stays small.
Should not happen: its memory grows by 64 MiB during an attack, or all attacks together leave 96 MiB, or the other
client's connection is closed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from server_process import ServerProcess, start_domain
from stranger_attacks import ATTACKS
from strangers import MAX_GROWTH_BYTES, PAUSE_S, OtherClient, attacking, rss_bytes
from support.eventually import eventually_blocking

pytestmark = pytest.mark.fresh_processes

ATTACK_S = 1.0
MAX_LEFT_BYTES = 3 * MAX_GROWTH_BYTES // 2
"""Growth since before the first attack, once the server has worked off what the attacks sent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, int]]:
    """A Domain that all attacks meet, and the memory that it had before the first one."""
    with start_domain(tmp_path_factory.mktemp("domain")) as server:
        with contextlib.closing(OtherClient(server.address[1])) as client:
            client.ask()
        yield server, rss_bytes(server.pid)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fills_no_memory_and_stops_nobody(name: str, server: tuple[ServerProcess, int]) -> None:
    domain, at_first = server
    # Passwords that wait to be hashed outlast their attack by a moment; each of two threads holds 19 MiB.
    eventually_blocking(lambda: rss_bytes(domain.pid) - at_first < MAX_LEFT_BYTES)
    before = most = rss_bytes(domain.pid)
    with contextlib.closing(OtherClient(domain.address[1])) as other:
        other.ask()
        with attacking(name, ["--port", str(domain.address[1])], ATTACK_S) as attacker:
            while attacker.poll() is None:
                other.ask()  # raises if there is no good answer
                most = max(most, rss_bytes(domain.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    attacker.wait(PAUSE_S)  # the pace of the other client
        assert attacker.returncode == 0
    assert most - before < MAX_GROWTH_BYTES
