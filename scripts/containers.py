"""A container engine, Docker or Podman, as `scripts/run-images` uses it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("docker", "podman")
LIMITS = ("--init", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
"""How docs/how-to/deploy.md and the compose file lock a container in."""
HEALTHY_TIMEOUT_S = 120.0


class RunFailed(Exception):
    """Something did not come out as it should, or can't be tried here; the text says what and what to do."""


@dataclass(frozen=True)
class State:
    """``status`` is the engine's word, like ``running``; ``health`` is empty if there is no check."""

    status: str
    health: str
    exit_code: int
    num_restarts: int


class Engine:
    """Calls an engine's command. What fails there is a RunFailed with what the engine said."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> str:
        """What ``docker WORDS`` prints; ``env`` is set beside the environment of this process."""
        done = self.try_call(*words, env=env, timeout_s=timeout_s)
        if done.returncode:
            raise RunFailed(f"{self.name} {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def try_call(
        self, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        return run([self.name, *words], env, timeout_s)

    def build(self, app: str, tag: str, flags: Sequence[str]) -> None:
        """Build the image of an app as its Dockerfile says."""
        # Podman's own format has no health check.
        kind = ["--format", "docker"] if self.name == "podman" else []
        self.call("build", *kind, *flags, "-f", f"apps/{app}/Dockerfile", "-t", tag, ".", timeout_s=1800.0)

    def state(self, container: str) -> State:
        (known,) = json.loads(self.call("inspect", "--type", "container", container))
        state = known["State"]
        health = (state.get("Health") or {}).get("Status", "")
        return State(state["Status"], health, state["ExitCode"], known.get("RestartCount", 0))

    def wait_healthy(self, containers: Sequence[str]) -> None:
        """Return once all are healthy.

        Raises:
            RunFailed: one has ended or was started again, or two minutes are over; with its log.
        """
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        for container in containers:
            while (state := self.state(container)).health != "healthy":
                if state.status not in ("created", "running") or state.num_restarts or time.monotonic() > deadline:
                    raise RunFailed(f"{container} is not healthy: {state}\n{self.log(container)}")
                time.sleep(0.5)

    @contextlib.contextmanager
    def checking_health(self) -> Iterator[None]:
        """Run the checks of all containers while the block runs.

        Docker does it by itself, Podman where systemd runs.
        """
        over = threading.Event()

        def check() -> None:
            while not over.wait(1.0):
                for container in self.try_call("ps", "--quiet").stdout.split():
                    self.try_call("healthcheck", "run", container)

        checking = threading.Thread(target=check)
        if self.name == "podman" and not Path("/run/systemd/system").exists():
            checking.start()
        try:
            yield
        finally:
            over.set()
            if checking.ident is not None:
                checking.join()

    def log(self, container: str) -> str:
        done = self.try_call("logs", container)
        return done.stdout + done.stderr

    def stop(self, container: str) -> None:
        """SIGTERM, as an operator's engine says it; the app must end by itself, and well."""
        self.call("stop", "-t", "30", container)
        self.check_ended(container)

    def check_ended(self, container: str) -> None:
        state, log = self.state(container), self.log(container)
        if state.exit_code or "Traceback" in log:
            raise RunFailed(f"{container} did not stop well: {state}\n{log}")

    def remove(self, container: str, *volumes: str) -> None:
        """Remove a container and volumes, if they are there."""
        self.try_call("rm", "--force", container)
        for volume in volumes:
            self.try_call("volume", "rm", "--force", volume)


class Compose:
    """The services of compose files, under a project of their own, so that nobody's data is touched."""

    def __init__(self, engine: Engine, project: str, files: Sequence[Path], env: Mapping[str, str]) -> None:
        self.engine = engine
        self.project = project
        self._env = dict(env)
        flags = [word for file in files for word in ("-f", str(file))]
        self._words = [*_compose_command(engine), "-p", project, *flags]

    def call(self, *words: str, timeout_s: float = 300.0, **env: str) -> str:
        """What ``docker compose WORDS`` prints. Raises RunFailed: it failed."""
        done = self.try_call(*words, timeout_s=timeout_s, **env)
        if done.returncode:
            raise RunFailed(f"{' '.join(done.args)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def try_call(self, *words: str, timeout_s: float = 300.0, **env: str) -> subprocess.CompletedProcess[str]:
        return run([*self._words, *words], self._env | env, timeout_s)

    def containers(self, services: Sequence[str]) -> dict[str, str]:
        """The containers of services, each by the name of its service; Docker and podman-compose name them
        differently.
        """
        label = "com.docker.compose"
        found = {}
        for service in services:
            filters = (f"label={label}.project={self.project}", f"label={label}.service={service}")
            words = [word for one in filters for word in ("--filter", one)]
            names = self.engine.call("ps", "--all", *words, "--format", "{{.Names}}").split()
            if len(names) != 1:
                raise RunFailed(f"the service {service} has {len(names)} containers, and one was expected")
            found[service] = names[0]
        return found


def _compose_command(engine: Engine) -> list[str]:
    # What `podman compose` calls may be another program, which needs a socket of Podman's.
    if engine.name == "podman" and shutil.which("podman-compose"):
        return ["podman-compose"]
    if run([engine.name, "compose", "version"], None, 60).returncode == 0:
        return [engine.name, "compose"]
    raise RunFailed(
        f"{engine.name} has no compose command: install the plugin docker-compose, or podman-compose for Podman"
    )


def find_engine(wanted: str | None) -> Engine:
    """The engine of that name, else the first that answers.

    Raises:
        RunFailed: there is none that answers.
    """
    said = []
    for name in [wanted] if wanted else ENGINES:
        if shutil.which(name) is None:
            said.append(f"{name}: not installed")
            continue
        done = run([name, "info"], None, 60)
        if done.returncode == 0:
            return Engine(name)
        said.append(f"{name}: {(done.stderr or done.stdout).strip()}")
    raise RunFailed(
        "no container engine answers here:\n  " + "\n  ".join(said) + "\nInstall Docker or Podman and start it."
    )


def run(command: Sequence[str], env: Mapping[str, str] | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """A command's outcome, in the repository's folder."""
    environment = {**os.environ, **(env or {})}
    try:
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as late:
        _give_up(command, late)


def _give_up(command: Sequence[str], late: subprocess.TimeoutExpired) -> NoReturn:
    raise RunFailed(f"{' '.join(command)} has not ended after {late.timeout:.0f} s") from late
