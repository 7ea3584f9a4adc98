"""Starts Workers with Slurm, by its programs `sbatch`, `squeue` and `scancel`.

The start token is in a file of a folder that all nodes share; only the user of the Domain can read it, and the Worker
removes it.
"""

from __future__ import annotations

import asyncio
import getpass
import math
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pygrid.compute.engines import EngineError, EngineState
from pygrid.compute.launchers.commands import worker_command
from pygrid.compute.pool_file import PoolConfig

_PATIENCE_S = 30.0
_PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
_ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)


class SlurmLauncher:
    """Starts Workers as batch jobs; see `pygrid.compute.engines.Launcher`."""

    def __init__(self, config: PoolConfig, domain: str) -> None:
        self._config = config
        self._domain = domain
        self._folder = Path(config.folder)

    async def start(self, handle: str, token: str) -> None:
        path = self._token_path(handle)
        try:
            await asyncio.to_thread(_write_secret, path, token)
        except OSError as error:
            raise EngineError(f"the start token cannot be written to {path}: {error.strerror}") from error
        command = [*worker_command(self._config, self._domain), "--token-file", str(path)]
        script = f"#!/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin\nexport PATH\nexec {shlex.join(command)}\n"
        try:
            await _run("sbatch", *self._options(handle), stdin=script)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    async def poll(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        output = await _run(
            "squeue", "--noheader", "--states=all", f"--name={','.join(handles)}", f"--user={_user()}", "--format=%j %T"
        )
        states: dict[str, EngineState] = {}
        for line in output.splitlines():
            name, _, state = line.strip().partition(" ")
            states[name] = _state(state)
        return states

    async def cancel(self, handle: str) -> None:
        await _run("scancel", f"--name={handle}", f"--user={_user()}")
        self._token_path(handle).unlink(missing_ok=True)

    async def close(self) -> None:
        """Do nothing: no program runs on."""

    def _token_path(self, handle: str) -> Path:
        return self._folder / f"{handle}.token"

    def _options(self, handle: str) -> list[str]:
        config = self._config
        options = [
            "--parsable",
            "--export=NIL",
            "--no-requeue",
            f"--job-name={handle}",
            "--ntasks=1",
            f"--cpus-per-task={config.cpus}",
            f"--mem={config.memory_mb}M",
            f"--time={math.ceil(config.wall_s / 60)}",
            f"--chdir={self._folder}",
            f"--output={self._folder / handle}.log",
        ]
        options += [f"--partition={config.partition}"] if config.partition else []
        options += [f"--account={config.account}"] if config.account else []
        return options


def _state(name: str) -> EngineState:
    if name in _ENDED:
        return EngineState.ENDED
    return EngineState.PENDING if name in _PENDING else EngineState.RUNNING


def _write_secret(path: Path, token: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)


def _user() -> str:
    return getpass.getuser()


async def _run(*command: str, stdin: str = "") -> str:
    """Return what a program of Slurm prints. Raises EngineError."""
    return await asyncio.to_thread(_run_now, command, stdin)


def _run_now(command: Sequence[str], stdin: str) -> str:
    program, passed = command[0], ("PATH", "HOME", "SLURM_CONF", "LD_LIBRARY_PATH")
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            env={key: os.environ[key] for key in passed if key in os.environ},
            umask=0o077,  # Slurm creates the log of a job with it
        )
    except OSError as error:
        raise EngineError(f"{program} cannot be run on the Domain's machine: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{program} did not answer within {_PATIENCE_S:g} s") from error
    if done.returncode:
        why = done.stderr.strip().splitlines()
        raise EngineError(f"{program}: {why[-1][:300] if why else f'exit code {done.returncode}'}")
    return done.stdout
