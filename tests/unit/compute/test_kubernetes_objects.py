"""What the Domain sends to Kubernetes, against the schemas of the versions that are in use."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest

from pygrid.compute.launchers.kubernetes import make_job, make_secret
from pygrid.compute.pool_file import PoolConfig

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
CONFIG = PoolConfig("k8s", "kubernetes", namespace="grid", image="pygrid:1", cpus=2, memory_mb=2048, wall_s=600)
HANDLE = f"pygrid-{'a' * 32}-1"
JOB = make_job(CONFIG, "https://domain.example", HANDLE)
SECRET = make_secret(HANDLE, "the token", "4baef4c1-1ef7-48f6-9d1a-174a00bf019b")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("content", [JOB, SECRET], ids=["Job", "Secret"])
def test_an_object_is_valid_in_each_version(version: str, content: dict[str, Any]) -> None:
    kubernetes_validate.validate(content, version, strict=True)


def test_a_wrong_object_would_be_found() -> None:
    wrong = json.loads(json.dumps(JOB))
    wrong["spec"]["template"]["spec"]["restart"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_a_worker_has_no_rights_and_its_token_is_in_its_secret_alone() -> None:
    spec = JOB["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never"), "an engine never runs a job twice"
    assert spec["activeDeadlineSeconds"] == CONFIG.start_s + CONFIG.wall_s
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "2", "memory": "2048Mi"}
    assert SECRET["metadata"]["ownerReferences"][0]["name"] == JOB["metadata"]["name"] == HANDLE
    assert len(HANDLE) <= 63
    assert "the token" not in json.dumps(JOB)
