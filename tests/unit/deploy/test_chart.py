"""The Helm chart. It has not run on a real cluster.

Should happen: the chart is rendered into objects that each version of Kubernetes in use accepts; HAProxy accepts the
configuration with the names of the replicas; every variable is a setting.
Should not: a chart without a bucket or a secret; a container with rights; replicas that others than the balancer reach.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from reference import settings_page

from support.haproxy import check_haproxy
from support.helm import find_helm

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "pygrid"
VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
VALUES = {
    "name": "hospital",
    "address": "https://grid.example",
    "store": "s3://hospital/pygrid",
    "secretName": "pygrid",
    "settings.PYGRID_LOG_FORMAT": "json",
}


def helm(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    options = [f"--set={name}={value}" for name, value in values.items()]
    return subprocess.run(
        [find_helm(), *arguments, *options], capture_output=True, text=True, timeout=180, check=False, cwd=ROOT
    )


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    """The rendered objects by kind and name, with some optional values set."""
    more = {"serviceAccountName": "pygrid", "metricsFrom[0].podSelector.matchLabels.app": "prometheus"}
    done = helm("template", "grid", str(CHART), **VALUES, **more)
    assert done.returncode == 0, done.stderr
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(done.stdout)}


def pods(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: one["spec"]["template"]["spec"] for name, one in objects.items() if "template" in one.get("spec", {})}


def test_the_chart_is_valid() -> None:
    done = helm("lint", "--strict", str(CHART), **VALUES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["name", "address", "store", "secretName"])
def test_a_value_without_a_default_is_asked_for(name: str) -> None:
    done = helm("template", "grid", str(CHART), **(VALUES | {name: ""}))
    assert done.returncode != 0
    assert f"{name}: " in done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_of_kubernetes_accepts_the_objects(objects: dict[str, dict[str, Any]], version: str) -> None:
    kinds = {name.partition("/")[0] for name in objects}
    assert kinds == {
        *("ConfigMap", "Service", "StatefulSet", "Deployment", "Job", "PodDisruptionBudget", "NetworkPolicy")
    }
    for one in objects.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]


def test_containers_have_few_rights(objects: dict[str, dict[str, Any]]) -> None:
    assert len(pods(objects)) == 3
    for pod in pods(objects).values():
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["seccompProfile"]) == (
            True,
            {"type": "RuntimeDefault"},
        )
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "limits" in container["resources"]


def test_every_variable_of_a_replica_is_a_setting(objects: dict[str, dict[str, Any]]) -> None:
    page = settings_page()
    for name in ("StatefulSet/grid-pygrid", "Job/grid-pygrid-upgrade"):
        (container,) = pods(objects)[name]["containers"]
        for variable in container["env"]:
            assert re.search(rf"[`\s]{variable['name']}\b", page), f"{variable['name']} is no setting"
        assert container["envFrom"] == [{"secretRef": {"name": "pygrid"}}]


def test_a_pod_has_time_to_drain(objects: dict[str, dict[str, Any]]) -> None:
    pod = pods(objects)["StatefulSet/grid-pygrid"]
    environment = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    drain_s = int(environment["PYGRID_DRAIN_S"]) + int(environment["PYGRID_SHUTDOWN_S"])
    assert drain_s + 15 <= pod["terminationGracePeriodSeconds"]


def test_the_balancer_knows_the_replicas_by_name(objects: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (container,) = pods(objects)["Deployment/grid-pygrid-balancer"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    replicas, service = objects["StatefulSet/grid-pygrid"], objects["Service/grid-pygrid-replicas"]
    assert replicas["spec"]["serviceName"] == service["metadata"]["name"]
    names = [environment[f"PYGRID_REPLICA_{number}"] for number in range(1, replicas["spec"]["replicas"] + 1)]
    assert names == [f"grid-pygrid-{n}.grid-pygrid-replicas.default.svc.cluster.local:5000" for n in range(3)]
    config = tmp_path / "haproxy.cfg"
    config.write_text(objects["ConfigMap/grid-pygrid-balancer"]["data"]["haproxy.cfg"])
    assert config.read_text().strip() == (ROOT / "apps/domain/haproxy.cfg").read_text().strip()
    check_haproxy(config, environment)


def test_only_the_balancer_reaches_the_replicas(objects: dict[str, dict[str, Any]]) -> None:
    policy = objects["NetworkPolicy/grid-pygrid"]["spec"]
    replica = objects["StatefulSet/grid-pygrid"]["spec"]["template"]["metadata"]["labels"]
    balancer = objects["Deployment/grid-pygrid-balancer"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == replica
    ((peer, prometheus),) = [rule["from"] for rule in policy["ingress"]]
    assert peer == {"podSelector": {"matchLabels": balancer}}
    assert prometheus == {"podSelector": {"matchLabels": {"app": "prometheus"}}}
    assert objects["Service/grid-pygrid"]["spec"]["selector"] == balancer
