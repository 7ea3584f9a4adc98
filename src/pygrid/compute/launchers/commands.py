"""The command that an engine runs."""

from __future__ import annotations

from pygrid.compute.pool_file import PoolConfig


def worker_command(config: PoolConfig, domain: str) -> list[str]:
    """The command that an engine runs: a Worker for one job."""
    return [config.program, "worker", "--once", "--domain", domain, "--num-threads", str(config.cpus)]
