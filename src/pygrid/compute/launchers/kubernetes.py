"""Starts Workers with Kubernetes: a Job for each, and a Secret with its start token.

The Job owns the Secret, so both end together. A Worker runs as an ordinary user on a read-only root, without
capabilities and without the token of a service account. The Domain needs a role in one namespace: create, get and
delete Jobs, and create Secrets. The NetworkPolicy of the namespace selects the label `LABELS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pygrid.compute.engines import EngineError, EngineState
from pygrid.compute.launchers.commands import worker_command
from pygrid.compute.launchers.http import HttpEngine
from pygrid.compute.pool_file import PoolConfig

LABELS = {"app.kubernetes.io/name": "pygrid-worker"}
KEEP_S = 300
"""How long Kubernetes keeps a Job that has ended."""
USER = 10_001
_ADDRESS = "https://kubernetes.default.svc"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubernetesLauncher:
    """Starts Workers as Jobs of Kubernetes; see `pygrid.compute.engines.Launcher`."""

    def __init__(self, config: PoolConfig, domain: str) -> None:
        self._config = config
        self._domain = domain
        is_inside = not config.address
        self._api = HttpEngine(
            config.address or _ADDRESS,
            ca_file=config.ca_file or (str(_ACCOUNT / "ca.crt") if is_inside else ""),
            token_file=config.token_file or (str(_ACCOUNT / "token") if is_inside else ""),
        )
        self._jobs = f"/apis/batch/v1/namespaces/{config.namespace}/jobs"
        self._secrets = f"/api/v1/namespaces/{config.namespace}/secrets"

    async def start(self, handle: str, token: str) -> None:
        job = await self._create(self._jobs, make_job(self._config, self._domain, handle))
        # The pod waits for its Secret, which can be made only with the id of the Job that owns it.
        await self._create(self._secrets, make_secret(handle, token, str(job["metadata"]["uid"])))

    async def poll(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        states = {}
        for handle in handles:
            status, job = await self._api.call("GET", f"{self._jobs}/{handle}")
            if status < 300:
                states[handle] = _state(job.get("status") or {})
        return states

    async def cancel(self, handle: str) -> None:
        await self._api.call("DELETE", f"{self._jobs}/{handle}", {"propagationPolicy": "Background"})

    async def close(self) -> None:
        await self._api.close()

    async def _create(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        status, made = await self._api.call("POST", path, content)
        if status >= 300 or not isinstance(made, dict):
            raise EngineError(f"{content['kind']} {content['metadata']['name']} was not created: status {status}")
        return made


def make_job(config: PoolConfig, domain: str, handle: str) -> dict[str, Any]:
    resources = {"cpu": str(config.cpus), "memory": f"{config.memory_mb}Mi"}
    token = {"secretKeyRef": {"name": handle, "key": "token"}}
    container = {
        "name": "worker",
        "image": config.image,
        "command": worker_command(config, domain),
        "env": [{"name": "PYGRID_START_TOKEN", "valueFrom": token}, {"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": handle, "labels": LABELS},
        "spec": {
            "backoffLimit": 0,
            # It counts from the start of the Job, while its pod may still wait for a machine.
            "activeDeadlineSeconds": config.start_s + config.wall_s,
            "ttlSecondsAfterFinished": KEEP_S,
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }


def make_secret(handle: str, token: str, job_uid: str) -> dict[str, Any]:
    """Return the Secret with the start token of a Worker."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": handle, "uid": job_uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": handle, "labels": LABELS, "ownerReferences": [owner]},
        "immutable": True,
        "type": "Opaque",
        "stringData": {"token": token},
    }


def _state(status: Mapping[str, Any]) -> EngineState:
    conditions = status.get("conditions") or ()
    if any(one.get("type") in ("Complete", "Failed") and one.get("status") == "True" for one in conditions):
        return EngineState.ENDED
    if status.get("succeeded") or status.get("failed"):
        return EngineState.ENDED
    return EngineState.RUNNING if status.get("ready") else EngineState.PENDING
