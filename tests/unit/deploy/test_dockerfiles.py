"""The Dockerfiles of apps/ and docker-compose.yml, as they are shipped. Whether the images work, scripts/check-images tries.

Should happen: images run as an ordinary user, tell whether they are well, and fit the compose file; every setting of it exists.
Should not happen: anything in an image that was not meant to be in it, such as a secret.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dockerfiles import context_files, find_faults, parse_dockerfile

from pygrid.deploy.apps import APPS, DATA_PATH, LISTENING
from pygrid.deploy.compose import ComposeFile, parse_compose
from pygrid.deploy.plan import plan_processes
from pygrid.errors import InvalidConfig

ROOT = Path(__file__).parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SECRETS = {"SECRET_KEY": "k" * 64, "PYGRID_INVITATION": "i" * 64}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GOOD = """
FROM python:3.11-slim
LABEL org.opencontainers.image.title=a org.opencontainers.image.description=b \\
      org.opencontainers.image.version=1 org.opencontainers.image.licenses=c
COPY pyproject.toml src ./
USER 1:1
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["true"]
ENTRYPOINT ["pygrid"]
"""


def dockerfile(app: str) -> str:
    return (ROOT / "apps" / app / "Dockerfile").read_text()


def shipped(**variables: str) -> ComposeFile:
    return parse_compose(COMPOSE, "docker-compose.yml", SECRETS | variables)


@pytest.mark.parametrize("app", APPS)
def test_the_shipped_images_are_without_faults(app: str) -> None:
    stages = parse_dockerfile(dockerfile(app))
    assert find_faults(stages) == []
    assert {stage.base for stage in stages} == {"python:3.11-slim-bookworm"}
    image = stages[-1]
    assert image.variables("LABEL")["org.opencontainers.image.version"] == PROJECT["version"]
    assert image.last("ENTRYPOINT").words == ["pygrid", app]  # type: ignore[union-attr]
    assert image.last("VOLUME").words == [DATA_PATH]  # type: ignore[union-attr]
    ports = [int(one.text) for one in image.instructions if one.name == "EXPOSE"]
    assert ports == ([LISTENING[app].default_port] if app in LISTENING else [])


@pytest.mark.parametrize(("app", "extras"), [("domain", "[postgres,tables]"), ("network", "[postgres]"), ("worker", "")])
def test_an_image_installs_the_extras_that_its_app_needs(app: str, extras: str) -> None:
    assert f'"$(ls wheels/*.whl){extras}"' in dockerfile(app)
    assert set(re.findall(r"\w+", extras)) <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("app", APPS)
def test_hadolint_is_content(app: str) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None and sys.platform == "linux":
        pytest.fail("hadolint is not installed; scripts/env dev")
    if program is None:
        pytest.skip("there is no hadolint for this system")
    done = subprocess.run([program, "-"], input=dockerfile(app), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("3.11-slim", "latest", "name a tag"),
        (":3.11-slim", "", "name a tag"),
        ("COPY pyproject.toml src ./", "COPY . .", "COPY . takes"),
        ("COPY", "ADD https://example.org/x", "ADD fetches"),
        ("USER 1:1", "USER 0:0", "USER must"),
        ("USER 1:1", "USER app", "USER must"),
        ("USER 1:1", "", "USER must"),
        ("USER 1:1", "USER 1:1\nUSER 0:0", "USER must"),
        ("STOPSIGNAL SIGTERM", "", "STOPSIGNAL"),
        ('CMD ["true"]', "NONE", "HEALTHCHECK is missing"),
        ('HEALTHCHECK CMD ["true"]', "", "HEALTHCHECK is missing"),
        ('ENTRYPOINT ["pygrid"]', "ENTRYPOINT pygrid", "form with brackets"),
        ('ENTRYPOINT ["pygrid"]', "", "ENTRYPOINT is missing"),
        ("USER 1:1", "ENV SECRET_KEY=x\nUSER 1:1", "ENV SECRET_KEY"),
        ("USER 1:1", "ARG PIP_TOKEN=x\nUSER 1:1", "ARG PIP_TOKEN"),
        ("USER 1:1", "RUN apt-get update \\\n    && apt-get -y install curl\nUSER 1:1", "leaves the package lists"),
        ("image.licenses=c", "image.licenses=", "image.licenses is missing"),
    ],
)
def test_faults_are_found(old: str, new: str, told: str) -> None:
    assert find_faults(parse_dockerfile(GOOD)) == []
    assert old in GOOD
    assert any(told in fault for fault in find_faults(parse_dockerfile(GOOD.replace(old, new, 1))))


def test_a_builder_is_given_the_package_and_nothing_else(tmp_path: Path) -> None:
    given = {str(path) for path in context_files(ROOT)}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/pygrid/domain.py"} <= given
    assert {path.split("/")[0] for path in given} == {"pyproject.toml", "README.md", "LICENSE", "src"}
    assert not [path for path in given if "__pycache__" in path]

    shutil.copy(ROOT / ".dockerignore", tmp_path)
    for name in (".env", "src/pygrid/a.py", "src/pygrid/__pycache__/a.pyc", "pygrid-up/alice/identity.pem", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path) for path in context_files(tmp_path)] == ["src/pygrid/a.py"]


def test_the_compose_file_is_about_the_images_of_this_version() -> None:
    raw = yaml.safe_load(COMPOSE)["services"]
    for name, service in shipped().services.items():
        if service.app is None:
            assert service.image.partition(":")[2] not in ("", "latest")
            continue
        assert service.image == f"pygrid-{service.app}:{PROJECT['version']}"
        assert raw[name]["build"] == {"context": ".", "dockerfile": f"apps/{service.app}/Dockerfile"}
        if service.port is not None:
            assert service.port.host == "127.0.0.1", "on this machine only, unless PYGRID_BIND says otherwise"
            assert service.port.published == service.port.target == LISTENING[service.app].port(service.environment)
    assert {service.app for service in shipped().services.values()} == {*APPS, None}


def test_the_published_services_keep_their_names_and_ports() -> None:
    published = {"network": 7000, "alice": 5000, "bob": 5001, "charlie": 5002, "dan": 5003}
    without_profile = {name: service for name, service in shipped().services.items() if not service.profiles}
    assert {name: service.port.published for name, service in without_profile.items() if service.port} == published
    for name, port in list(published.items())[1:]:
        environment = without_profile[name].environment
        assert environment["NODE_ID"] == name
        assert environment["ADDRESS"] == f"http://{name}:{port}"
        assert environment["NETWORK"] == "http://network:7000"
        assert environment["DATABASE_URL"].startswith("sqlite:////data/")


def test_containers_are_locked_in() -> None:
    content = yaml.safe_load(COMPOSE)
    for service in content["services"].values():
        assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "/tmp" in service["tmpfs"]
        assert "privileged" not in service
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= content["volumes"].keys()


def test_every_variable_is_a_documented_setting() -> None:
    settings = (ROOT / "docs" / "settings.md").read_text() + (ROOT / "docs" / "worker.md").read_text()
    deploy = (ROOT / "docs" / "deploy.md").read_text()
    for name, service in shipped().services.items():
        for variable in service.environment if service.app else ():
            assert re.search(rf"[`\s]{variable}\b", settings), f"{name} sets {variable}, which is no setting"
    for variable in set(re.findall(r"\$\{([A-Z_]+)", COMPOSE)):
        assert f"`{variable}`" in deploy, f"docs/deploy.md does not tell what {variable} of docker-compose.yml is"


def test_every_service_but_the_database_can_be_a_process() -> None:
    launches = plan_processes(
        shipped(ERIN_DATABASE_URL="postgresql://me@127.0.0.1/erin"),
        ("dan", "erin", "worker", "bob", "charlie"),
        (),
        folder=ROOT,
        data_dir=Path("/kept"),
        free_port=lambda: 1,
    )
    assert {launch.name for launch in launches} == {"network", "alice", "bob", "charlie", "dan", "erin", "worker"}
    assert {launch.host for launch in launches} == {"127.0.0.1"}


@pytest.mark.parametrize("missing", SECRETS)
def test_secrets_are_asked_for(missing: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        shipped(**{missing: ""})
    assert refused.value.code == "variable_missing"
    assert f"needs the variable {missing}, which is not set: put one into .env" in refused.value.detail


def test_the_command_that_makes_the_secrets_makes_good_ones() -> None:
    (command,) = re.findall(r"^#   (python3 -c .*) > \.env$", COMPOSE, re.MULTILINE)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"SECRET_KEY=[0-9a-f]{64}\nPYGRID_INVITATION=[0-9a-f]{64}\n", done.stdout)
