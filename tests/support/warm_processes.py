"""The fork server of local jobs, kept for the next Domain of the same process of the test run.

A fork server takes 0.8 s of processor time to start, and most Domains of the tests run a job or two. It keeps nothing
of a job: each runs in a process of its own. A fork server that a test kills, or closes with a job, is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pygrid.compute import local
from pygrid.compute.driver import LocalLimits
from pygrid.sandbox.process import Child

_GRACE_S = 10.0

_Server = local._Server
_idle: dict[bool, list[tuple[Child, dict[str, Any]]]] = {}


class _KeptServer(_Server):
    _is_weak: bool | None = None
    """Whether the settings allow a weak sandbox; None until the process is ready."""
    _was_cancelled = False

    @classmethod
    async def start(cls, limits: LocalLimits) -> _Server:
        server = cls._kept(limits.allow_weak_sandbox) or await super().start(limits)
        server._is_weak = limits.allow_weak_sandbox  # type: ignore[attr-defined]
        return server

    @classmethod
    def _kept(cls, is_weak: bool) -> _Server | None:
        while _idle.get(is_weak):
            child, ready = _idle[is_weak].pop()
            if child._process.poll() is None:
                server = cls(child)
                server._ready.set_result(ready)
                server.layers, server.is_sound = tuple(ready["layers"]), bool(ready["sound"])
                server.runtime = ready["runtime"]
                return server
            child.channel.close()
        return None

    def cancel(self, job_id: str) -> None:
        self._was_cancelled = True
        super().cancel(job_id)

    async def close(self) -> None:
        if self.is_gone or self._is_weak is None or self._ends or self._was_cancelled:
            await super().close()
            return
        self.is_gone = True
        self._loop.remove_reader(self._control)
        _idle.setdefault(self._is_weak, []).append((self._child, self._ready.result()))


@contextmanager
def kept_fork_servers() -> Iterator[None]:
    """Drivers that start in this block use the fork servers that are kept, and keep theirs."""
    local._Server = _KeptServer  # type: ignore[misc]
    try:
        yield
    finally:
        local._Server = _Server  # type: ignore[misc]


def end_all() -> None:
    """End the processes that are kept."""
    for kept in _idle.values():
        while kept:
            child, _ = kept.pop()
            child.channel.close()
            child.end(_GRACE_S)
