"""Starts Workers with Ray, by the HTTP API of its jobs.

The Worker is the driver process of a Ray job, so no version of Ray has to match. The dashboard shows the start token
to everybody who can reach it: those can run code on the cluster anyway, and a start token is valid once.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pygrid.compute.engines import EngineError, EngineState
from pygrid.compute.launchers.commands import worker_command
from pygrid.compute.launchers.http import HttpEngine
from pygrid.compute.pool_file import PoolConfig

_STATES = {
    "PENDING": EngineState.PENDING,
    "RUNNING": EngineState.RUNNING,
    "STOPPED": EngineState.ENDED,
    "SUCCEEDED": EngineState.ENDED,
    "FAILED": EngineState.ENDED,
}


class RayLauncher:
    """Starts Workers as jobs of Ray; see `pygrid.compute.engines.Launcher`."""

    def __init__(self, config: PoolConfig, domain: str) -> None:
        self._config = config
        self._command = shlex.join(worker_command(config, domain))
        self._api = HttpEngine(config.address, ca_file=config.ca_file, token_file=config.token_file)

    async def start(self, handle: str, token: str) -> None:
        job = {
            "entrypoint": self._command,
            "submission_id": handle,
            "entrypoint_num_cpus": self._config.cpus,
            "entrypoint_memory": self._config.memory_mb * 1024**2,
            "runtime_env": {"env_vars": {"PYGRID_START_TOKEN": token}},
        }
        status, _ = await self._api.call("POST", "/api/jobs/", job)
        if status >= 300:
            raise EngineError(f"{self._config.address} answered {status}: its dashboard has no API of jobs")

    async def poll(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        states = {}
        for handle in handles:
            status, job = await self._api.call("GET", f"/api/jobs/{handle}")
            if status < 300 and isinstance(job, dict):
                states[handle] = _STATES.get(str(job.get("status")), EngineState.RUNNING)
        return states

    async def cancel(self, handle: str) -> None:
        await self._api.call("POST", f"/api/jobs/{handle}/stop")

    async def close(self) -> None:
        await self._api.close()
