"""A client without an account attacks a real Domain for some seconds, in each way that `benchmarks/strangers.py` knows.

Should happen: the Domain answers another client all the while, and stays small.
Should not happen: its memory grows by 64 MiB, or the other client's connection is closed.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from server_process import start_domain
from stranger_attacks import ATTACKS
from strangers import MAX_GROWTH_BYTES, OtherClient, attacking, rss_bytes

ATTACK_S = 2.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fills_no_memory_and_stops_nobody(name: str, tmp_path: Path) -> None:
    with start_domain(tmp_path) as server, contextlib.closing(OtherClient(server.address[1])) as other:
        other.ask()
        before = most = rss_bytes(server.pid)
        with attacking(name, ["--port", str(server.address[1])], ATTACK_S) as attacker:
            while attacker.poll() is None:
                other.ask()  # raises if there is no good answer
                most = max(most, rss_bytes(server.pid))
        assert attacker.returncode == 0
    assert most - before < MAX_GROWTH_BYTES
