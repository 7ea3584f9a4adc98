"""An emulated API server of Kubernetes, with a kubelet that runs the Workers of its Jobs as processes of this machine.

No API server comes as a package, so this is not a real one: kmock keeps objects as they are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import kmock


class ApiServer(kmock.KubernetesEmulator):  # type: ignore[misc]
    """kmock gives objects no id; the real server does."""

    async def _handle(self, request: Any) -> Any:
        if request.action == kmock.action.CREATE:
            request.data.setdefault("metadata", {})["uid"] = str(uuid.uuid4())
        return await super()._handle(request)


class Kubelet:
    """Runs one process for each Job of an API server; see `kubernetes_cluster`."""

    def __init__(self) -> None:
        self.address = ""
        self.jobs: list[dict[str, Any]] = []
        """All Jobs that ran, as they were created."""
        self.secrets: list[dict[str, Any]] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ready, self._stop = threading.Event(), threading.Event()

    def run(self) -> None:
        """Serve and run until `stop`, in a thread of its own."""
        asyncio.run(self._run())

    def stop(self) -> None:
        self._stop.set()

    def wait_ready(self) -> None:
        assert self._ready.wait(60)

    async def _run(self) -> None:
        server = ApiServer()
        server.resources["batch/v1/jobs"], server.resources["v1/secrets"] = {}, {}
        try:
            async with server, kmock.Server(server):
                self.address = str(server.url).rstrip("/")
                self._ready.set()
                while not self._stop.is_set():
                    self._look(dict(server.objects))
                    await asyncio.to_thread(self._stop.wait, 0.05)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def _look(self, objects: dict[Any, Any]) -> None:
        found = {(key[0].plural, key[2]): value for key, value in objects.items() if not value.deleted}
        for (kind, name), job in found.items():
            if kind == "jobs" and name not in self._processes and ("secrets", name) in found:
                self._start(name, job.raw, found["secrets", name].raw)
        for name, process in self._processes.items():
            job = found.get(("jobs", name))
            if job is None:
                process.terminate()
            elif process.poll() is not None and not job.raw.get("status"):
                kind = "Failed" if process.returncode else "Complete"
                job.patch({"status": {"conditions": [{"type": kind, "status": "True"}]}})

    def _start(self, name: str, job: dict[str, Any], secret: dict[str, Any]) -> None:
        self.jobs.append(job)
        self.secrets.append(secret)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        environment = {**os.environ, "PYGRID_START_TOKEN": secret["stringData"]["token"]}
        self._processes[name] = subprocess.Popen(container["command"], env=environment)


@contextlib.contextmanager
def kubernetes_cluster() -> Iterator[Kubelet]:
    """Run an emulated cluster for the length of the block."""
    kubelet = Kubelet()
    thread = threading.Thread(target=kubelet.run)
    thread.start()
    try:
        kubelet.wait_ready()
        yield kubelet
    finally:
        kubelet.stop()
        thread.join(20)
