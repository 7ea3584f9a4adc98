"""The Dockerfiles of apps/ and docker-compose.yml, as they are shipped. `scripts/run-images` builds and runs the
images.

Should happen: an image runs as an ordinary user, checks its own health, and fits the compose file; every setting there
exists. Should not happen: a base image or a service without a version, a secret in an image or in the compose file.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from reference import settings_page

from pygrid.deploy.apps import APPS, DATA_PATH, LISTENING

ROOT = Path(__file__).parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PORTS = {"network": 7000, "alice": 5000, "bob": 5001, "charlie": 5002, "dan": 5003, "erin": 5004}


def dockerfile(app: str) -> str:
    return (ROOT / "apps" / app / "Dockerfile").read_text()


def instructions(app: str, name: str) -> list[str]:
    """The arguments of each instruction of this name, its lines joined."""
    joined = dockerfile(app).replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("app", APPS)
def test_an_image_is_pinned_and_not_root(app: str) -> None:
    bases = [words.split()[0] for words in instructions(app, "FROM")]
    assert set(bases) == {"python:3.11-slim-bookworm"}
    assert instructions(app, "USER") == ["10001:10001"]
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in instructions(app, "LABEL")[0]
    assert instructions(app, "ENTRYPOINT") == [f'["pygrid", "{app}"]']
    assert instructions(app, "VOLUME") == [f'["{DATA_PATH}"]']
    assert instructions(app, "STOPSIGNAL") == ["SIGTERM"]
    assert instructions(app, "EXPOSE") == ([str(LISTENING[app].default_port)] if app in LISTENING else [])
    copied = {
        word for words in instructions(app, "COPY") for word in words.split()[:-1] if not word.startswith("--from")
    }
    assert copied <= {"pyproject.toml", "README.md", "LICENSE", "src", "/opt/pygrid"}
    assert not re.search(r"(?i)token|password|secret", " ".join(instructions(app, "(?:ENV|ARG)")))


@pytest.mark.parametrize("app", LISTENING)
def test_the_health_check_runs(app: str) -> None:
    (check,) = instructions(app, "HEALTHCHECK")
    python, *arguments = yaml.safe_load(check.partition("CMD")[2])
    assert python == "python"
    variables = {LISTENING[app].port_variables[0]: "1"}  # type: ignore[index]
    done = subprocess.run(
        [sys.executable, *arguments], env=variables, capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no answer on port 1" in done.stderr


@pytest.mark.parametrize(
    ("app", "extras"), [("domain", "[domain,oidc,s3]"), ("network", "[postgres,oidc]"), ("worker", "")]
)
def test_an_image_installs_the_extras_that_its_app_needs(app: str, extras: str) -> None:
    assert f'"$(ls wheels/*.whl){extras}"' in dockerfile(app)
    assert set(re.findall(r"\w+", extras)) <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("app", APPS)
def test_hadolint_finds_nothing(app: str) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None and sys.platform == "linux":
        pytest.fail("hadolint is not installed; scripts/env dev")
    if program is None:
        pytest.skip("there is no hadolint for this system")
    done = subprocess.run(
        [program, "-"], input=dockerfile(app), capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_names_images_of_this_version() -> None:
    for name, service in SERVICES.items():
        image, _, version = service["image"].partition(":")
        app = image.removeprefix("pygrid-")
        if app not in APPS:
            assert version not in ("", "latest"), name
            continue
        assert version == PROJECT["version"]
        if "build" in service:
            assert service["build"] == {"context": ".", "dockerfile": f"apps/{app}/Dockerfile"}
    assert {service["image"].partition(":")[0] for service in SERVICES.values()} > {f"pygrid-{app}" for app in APPS}


def test_the_published_services_keep_their_names_and_ports() -> None:
    assert {name for name, service in SERVICES.items() if service.get("ports")} == set(PORTS)
    for name, port in PORTS.items():
        environment = SERVICES[name]["environment"]
        assert SERVICES[name]["ports"] == [f"${{PYGRID_BIND:-127.0.0.1}}:{port}:{port}"]
        assert (environment["NODE_ID"], environment["PORT"]) == (name, port)
        if name != "network":
            assert environment["ADDRESS"] == f"${{{name.upper()}_ADDRESS:-http://{name}:{port}}}"
            assert environment["NETWORK"] == "http://network:7000"


def test_containers_have_few_rights() -> None:
    for service in SERVICES.values():
        assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "/tmp" in service["tmpfs"]
        assert "privileged" not in service
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= yaml.safe_load(COMPOSE)["volumes"].keys()


def test_every_variable_is_a_documented_setting() -> None:
    settings = settings_page() + (ROOT / "docs/how-to/add-a-worker.md").read_text()
    deploy = (ROOT / "docs/how-to/deploy.md").read_text()
    for name, service in SERVICES.items():
        for variable in service["environment"] if service["image"].startswith("pygrid-") else ():
            assert re.search(rf"[`\s]{variable}\b", settings), f"{name} sets {variable}, which is no setting"
    for variable in set(re.findall(r"\$\{([A-Z_]+)", COMPOSE)):
        assert f"`{variable}`" in deploy, f"docs/how-to/deploy.md does not describe {variable} of docker-compose.yml"


def test_the_secrets_have_no_default() -> None:
    for name in ("SECRET_KEY", "PYGRID_INVITATION"):
        assert SERVICES["alice"]["environment"][name].startswith(f"${{{name}:?")


def test_the_command_that_makes_the_secrets_makes_good_ones() -> None:
    (command,) = re.findall(r"^#   (python3 -c .*) > \.env$", COMPOSE, re.MULTILINE)
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=180, check=True)
    assert re.fullmatch(r"SECRET_KEY=[0-9a-f]{64}\nPYGRID_INVITATION=[0-9a-f]{64}\n", done.stdout)
