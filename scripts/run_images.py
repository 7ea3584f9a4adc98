"""Builds the images with a container engine and runs them; see scripts/run-images.

Everything that it makes but the images is gone afterwards: containers, volumes and networks carry names of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from containers import LIMITS, ROOT, Compose, Engine, RunFailed, find_engine

sys.path.insert(0, str(ROOT / "examples"))

import digits_data
import network_demo
import private_demo
from pygrid import __version__, client
from pygrid.edge import load_data
from pygrid.errors import PygridError
from pygrid.plans import Plan

APPS = ("domain", "network", "worker")
PARTS = ("build", "alone", "together")
NAME = f"pygrid-trial-{os.getpid()}"
OWNER = "owner@example.org"
SETUP_CODE = secrets.token_hex(10)
WORKER = "helper"
PORTS = {"network": 7000, "alice": 5000, "bob": 5001, "charlie": 5002, "dan": 5003}
HOLDERS, COORDINATOR = {"alice": "north", "bob": "south"}, "dan"
"""Domains with data, and whose images of the demo they have; and the one at which their training meets."""
CYCLES = 5
PATIENCE_S = 120.0
_WRITABLE = (
    "for place in / /opt/pygrid /etc /root /usr/local /data /tmp; do (: > $place/trial) 2>/dev/null && echo $place; "
    "done; true"
)
_PREFER_WORKERS = "services: {alice: {environment: {PYGRID_PREFER_REMOTE_WORKERS: 1}}}\n"


@dataclass(frozen=True)
class Trial:
    """One run with an engine; the password and the secrets are made for it."""

    engine: Engine
    build_flags: Sequence[str] = ()
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    env: dict[str, str] = field(
        default_factory=lambda: {
            "SECRET_KEY": secrets.token_hex(32),
            "PYGRID_INVITATION": secrets.token_hex(32),
            "PYGRID_OPEN_SIGNUP": "1",
            "PYGRID_LOG_LEVEL": "info",
            "PYGRID_WORKER_TOKEN": "",
            "PYGRID_HOSTS": "",
            "PYGRID_SETUP_CODE": SETUP_CODE,
            "PYGRID_BIND": "127.0.0.1",
            **{f"{name.upper()}_ADDRESS": f"http://{name}:{port}" for name, port in PORTS.items() if name != "network"},
        }
    )

    def build(self) -> None:
        """The three images, as their Dockerfiles say."""
        for app in APPS:
            began = time.monotonic()
            self.engine.build(app, image(app), self.build_flags)
            say(f"{app}: built in {time.monotonic() - began:.0f} s")

    def alone(self) -> None:
        """A Domain by itself: how it is locked in, what it does, and that it is the same after a stop."""
        engine, volume, port = self.engine, NAME, free_port()
        flags = [
            *LIMITS,
            "-v",
            f"{volume}:/data",
            "-p",
            f"127.0.0.1:{port}:5000",
            "-e",
            "SECRET_KEY",
            "-e",
            "PYGRID_OPEN_SIGNUP",
            "-e",
            "PYGRID_SETUP_CODE",
        ]
        try:
            done = engine.try_call("run", "--rm", *LIMITS, image("domain"))
            if done.returncode != 1 or "SECRET_KEY is not set" not in done.stderr:
                raise RunFailed(f"a start without SECRET_KEY ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            engine.call("run", "--detach", "--name", NAME, *flags, image("domain"), env=self.env)
            engine.wait_healthy([NAME])
            say("a Domain: refuses to start without a secret, and is healthy with one")
            self._check_limits()
            url = f"http://127.0.0.1:{port}"
            with client.connect(url) as owner, client.connect(url) as scientist:
                owner.sign_up(OWNER, self.password, setup_code=SETUP_CODE)
                scientist.sign_up(private_demo.SCIENTIST, self.password)
                private_demo.PrivateDemo(owner, scientist, lambda text: None).run()
                say(
                    "a Domain: takes records, searches them, runs private and exact jobs in sandboxes, keeps to the "
                    "budget"
                )
                kept = (
                    owner.identity().identity,
                    [job.id for job in owner.jobs()],
                    owner.datasets[private_demo.NAME].budget().spent,
                )
                engine.stop(NAME)
                engine.remove(NAME)
                engine.call("run", "--detach", "--name", NAME, *flags, image("domain"), env=self.env)
                engine.wait_healthy([NAME])
                again = (
                    owner.identity().identity,
                    [job.id for job in owner.jobs()],
                    owner.datasets[private_demo.NAME].budget().spent,
                )
                if kept != again:
                    raise RunFailed(f"another container on the same volume is another Domain: {kept}, then {again}")
            say("a Domain: stops at SIGTERM, and a new container on its volume is the same Domain")
        finally:
            engine.remove(NAME, volume)

    def _check_limits(self) -> None:
        """The image's user, what it can write, and whether a plan can be locked in."""
        user = self.engine.call("exec", NAME, "id", "-u").strip()
        writable = self.engine.call("exec", NAME, "sh", "-c", _WRITABLE).split()
        if (user, writable) != ("10001", ["/data", "/tmp"]):
            raise RunFailed(f"the Domain runs as user {user} and can write to {', '.join(writable)}")
        doctor = self.engine.try_call("exec", NAME, "pygrid", "worker", "doctor")
        layers = doctor.stdout.split("\n\n")[0]
        if doctor.returncode:
            raise RunFailed(
                f"plans can't be locked in within a container of this engine:\n{doctor.stdout}{doctor.stderr}"
            )
        say(f"a Domain: is user {user}, writes to /data and /tmp only, and can lock plans in:\n{indented(layers)}")

    def together(self) -> None:
        """The services of docker-compose.yml: they find each other, and two train together; then a Worker."""
        if taken := [port for port in PORTS.values() if is_taken(port)]:
            raise RunFailed(f"something listens on port {', '.join(map(str, taken))} already; stop it first")
        with tempfile.TemporaryDirectory() as folder:
            more = Path(folder, "trial.yml")
            more.write_text(_PREFER_WORKERS)
            compose = Compose(self.engine, NAME, [ROOT / "docker-compose.yml", more], self.env)
            try:
                compose.call("up", "--detach", "--no-build")
                self._check_services(compose)
            finally:
                ended = compose.try_call("--profile", "worker", "down", "--volumes")
        if ended.returncode:
            raise RunFailed(f"the services are still there:\n{ended.stdout}{ended.stderr}")

    def _check_services(self, compose: Compose) -> None:
        containers = compose.containers(list(PORTS))
        self.engine.wait_healthy(list(containers.values()))
        with contextlib.ExitStack() as stack:
            network = stack.enter_context(client.connect_network(address("network")))
            owners = {name: stack.enter_context(client.connect(address(name))) for name in PORTS if name != "network"}
            for one in (network, *owners.values()):
                one.sign_up(OWNER, self.password, setup_code=SETUP_CODE)
            wait_until("all Domains belong to the Network", lambda: are_online(network, owners))
            say(f"together: {', '.join(containers)} are healthy, and the Network lists its Domains as online")
            self._train(network, owners)
            self._use_a_worker(compose, owners["alice"])
            compose.call("stop")
            for container in containers.values():
                self.engine.check_ended(container)
            compose.call("start")
            self.engine.wait_healthy(list(containers.values()))
            wait_until("all Domains are back", lambda: are_online(network, owners))
            if any(not owners[name].datasets.search("digits") for name in HOLDERS):
                raise RunFailed("the datasets are gone after a restart")
        say("together: all stop when told, and know each other and their data when they are started again")

    def _train(self, network: client.NetworkClient, owners: dict[str, client.DomainClient]) -> None:
        """Owners upload; somebody who searches the Network finds their data and trains across it."""
        training, held_out = digits_data.hold_out(digits_data.load(), seed=0)
        shards = network_demo.deal(training)
        for name, shard in HOLDERS.items():
            columns = {"image": shards[shard].x, "digit": shards[shard].y}
            meanings = {"image": "brightness, 0 to 1", "digit": "label 0..9"}
            dataset = owners[name].datasets.upload(
                "digits", columns, columns=meanings, visibility="public", progress=False
            )
            dataset.policy(**network_demo.POLICY, allow_remote_workers=True)
        found = {item.domain.name for item in network.search("digits", kinds="dataset").datasets}
        if found != set(HOLDERS):
            raise RunFailed(f"the search finds datasets at {sorted(found)}, and {sorted(HOLDERS)} have them")
        datasets = {}
        for name in HOLDERS:
            scientist = client.connect(address(name))
            scientist.sign_up(network_demo.SCIENTIST, self.password)
            datasets[name] = scientist.datasets["digits"]
        run = client.federate(
            Plan.load(network_demo.PLANS / "digits.plan"),
            load_data(network_demo.PLANS / "digits.safetensors"),
            datasets,
            coordinator=owners[COORDINATOR],
            # The containers know the Network by another name than those outside of them.
            coordinator_url=f"grid+http://network:7000/{COORDINATOR}",
            rounds=CYCLES,
            reason="try the images",
            min_domains=len(HOLDERS),
            epsilon=network_demo.EPSILON,
            delta=network_demo.DELTA,
            evaluate=held_out.arrays(),
            decide_within_s=PATIENCE_S,
            progress=False,
            **network_demo.TRAINING,
        )
        run.wait(timeout_s=PATIENCE_S, progress=False)
        say(f"together: {' and '.join(HOLDERS)} are found and train {CYCLES} cycles:\n{indented(str(run.history))}")

    def _use_a_worker(self, compose: Compose, alice: client.DomainClient) -> None:
        """The Worker of the profile takes a job of alice's, and ends when told."""
        token = alice.workers.let_in(WORKER).token
        compose.call("--profile", "worker", "up", "--detach", "--no-build", "worker", PYGRID_WORKER_TOKEN=token)
        wait_until("the Worker asks for jobs", lambda: any(one.num_waiting for one in alice.workers()))
        job = alice.submit(
            Plan.load(network_demo.PLANS / "digits.plan"),
            dataset="digits",
            model=load_data(network_demo.PLANS / "digits.safetensors"),
            reason="try the Worker",
            epsilon=1.0,
            delta=network_demo.DELTA,
            **network_demo.TRAINING,
        )
        info = job.wait(timeout_s=PATIENCE_S)
        where = (info.facts or {}).get("worker")
        if (info.state, where) != ("released", WORKER):
            raise RunFailed(f"a job is {info.state} and ran at {where!r}, and not at the Worker: {info.detail}")
        (container,) = compose.containers(["worker"]).values()
        self.engine.stop(container)
        say("together: a Worker in a container of its own takes a job, and stops when told")


def are_online(network: client.NetworkClient, names: Iterator[str] | dict[str, Any]) -> bool:
    return {one.name for one in network.domains() if one.state == "online"} == set(names)


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise RunFailed(f"waited {PATIENCE_S:.0f} s, and it is still not so that {what}")
        time.sleep(0.2)


def image(app: str) -> str:
    return f"pygrid-{app}:{__version__}"


def address(service: str) -> str:
    return f"http://127.0.0.1:{PORTS[service]}"


def is_taken(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/run-images",
        description="Build the images with Docker or Podman and run them. Example: scripts/run-images --engine podman",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}; all unless given")
    parser.add_argument("--engine", choices=("docker", "podman"), help="the one that answers, unless given")
    parser.add_argument(
        "--build-flag", action="append", default=[], metavar="FLAG", help="for the engine's build command"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    # Sessions and known Domains of this run are nobody's.
    with tempfile.TemporaryDirectory() as home:
        os.environ["XDG_CONFIG_HOME"] = home
        try:
            trial = Trial(find_engine(arguments.engine), arguments.build_flag)
            with trial.engine.checking_health():
                for part in PARTS:
                    if part in (arguments.parts or PARTS):
                        getattr(trial, part)()
        except (RunFailed, private_demo.PrivateDemoFailed, PygridError) as failure:
            sys.exit(f"run-images: {failure}")


if __name__ == "__main__":
    main()
