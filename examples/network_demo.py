"""Three hospitals that never show each other an image train one model, through a Network; on this machine, in seconds.

    scripts/demo --only network

A Network and four Domains are started as processes. Three hold images of digits, each of four of the ten: two can be
called directly, the third, as behind a firewall, only through the Network's relay. The fourth is the scientist's, who
searches the Network, finds the three datasets, and trains across them with one call, within the privacy budget that
each owner has set.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import digits_data
from digits_data import Digits
from local_processes import LocalProcesses
from pygrid import client
from pygrid.client.datasets import Dataset
from pygrid.client.federation.run import FederatedRun
from pygrid.edge import load_data
from pygrid.errors import NotFound, Unavailable
from pygrid.plans import Plan, Runner
from pygrid.tensors import Params

PLANS = Path(__file__).parent / "plans"
HOSPITALS = {"north": (0, 1, 2, 3), "south": (3, 4, 5, 6), "east": (6, 7, 8, 9)}
"""Name, and the digits that its images show: of six of the ten it has none."""
BEHIND_A_FIREWALL = "east"
UNIVERSITY = "university"
OWNER, SCIENTIST = "owner@example.org", "scientist@example.org"
DATASET = "digits"
CYCLES = 20
EPSILON, DELTA = 8.0, 1e-5
"""Of all cycles together, at each hospital, for a record that is replaced by any other."""
POLICY: dict[str, Any] = {
    "epsilon": 10.0,
    "delta": DELTA,
    "epsilon_per_user": 10.0,
    "auto_approve": True,
    "use": "training",
}
TRAINING: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 96,
    "hyper": {"lr": 1.0},
    "binding": {"x": "image", "y": "digit"},
}
"""What each hospital does in a cycle."""
ALONE: dict[str, Any] = {"epochs": CYCLES, "batch_size": 32, "hyper": {"lr": 0.3}}
"""Training without noise, as long."""
MARGIN = 0.25
"""By so much the common model is better than the best that a hospital can make alone."""
PATIENCE_S = 120.0


class NetworkDemoFailed(Exception):
    """Something did not come out as it should; the text says what."""


@dataclass(frozen=True)
class Outcome:
    """Accuracies on images that no hospital has."""

    together: float
    """Of the federated model."""
    alone: dict[str, float]
    """Of a model that each hospital trains on its own images, without noise."""
    pooled: float
    """Of a model trained on all images in one place, without noise."""


@dataclass(frozen=True)
class Hospital:
    """A Domain with data, in the hands of its owner."""

    name: str
    owner: client.DomainClient
    images: Digits


class NetworkDemo:
    """One run.

    Args:
        processes: what it starts them with.
        folder: for the data of the apps.
        say: shows a line.
    """

    def __init__(self, processes: LocalProcesses, folder: Path, say: Callable[[str], object], *, seed: int = 0) -> None:
        self.processes, self.folder, self.say, self.seed = processes, folder, say, seed
        training, self.held_out = digits_data.hold_out(digits_data.load(), seed=seed)
        self.shards = deal(training, seed=seed)
        self.plan = Plan.load(PLANS / "digits.plan")
        self.initial: Params = load_data(PLANS / "digits.safetensors")
        self.runner = Runner(self.plan)
        self.password = secrets.token_urlsafe(12)
        self.network_url = ""

    def run(self) -> Outcome:
        """All of it, in order.

        Raises:
            NetworkDemoFailed, ProcessFailed, PygridError: with what to tell the user.
        """
        network = self.start_network()
        hospitals = [self.start_hospital(name) for name in HOSPITALS]
        self.processes.start_domain(self.folder / UNIVERSITY, UNIVERSITY, network=self.network_url, env=self.invitation)
        self.show_members(network)
        for hospital in hospitals:
            self.upload(hospital)
        datasets = self.find(network)
        run = self.train(network, datasets)
        return self.judge(run)

    def start_network(self) -> client.NetworkClient:
        """A Network, with an invitation for the Domains of this demo."""
        self.network_url = self.processes.start_network(self.folder / "network")
        network = client.connect_network(self.network_url)
        network.sign_up(OWNER, self.password)
        self.invitation = {"PYGRID_INVITATION": network.invite(max_uses=len(HOSPITALS) + 1).token}
        return network

    def start_hospital(self, name: str) -> Hospital:
        """A Domain with an Owner; all but one can be called directly."""
        port = free_port()
        address = "" if name == BEHIND_A_FIREWALL else f"http://127.0.0.1:{port}"
        url = self.processes.start_domain(
            self.folder / name, name, port=port, network=self.network_url, address=address, env=self.invitation
        )
        owner = client.connect(url)
        owner.sign_up(OWNER, self.password)
        return Hospital(name, owner, self.shards[name])

    def show_members(self, network: client.NetworkClient) -> None:
        """Wait until all have joined, and say how each is reached."""
        everybody = {*HOSPITALS, UNIVERSITY}
        give_up_at = time.monotonic() + PATIENCE_S
        while not all(is_ready(network, name) for name in everybody):
            self.processes.check()
            if time.monotonic() > give_up_at:
                raise NetworkDemoFailed(f"not all Domains have joined the Network:\n{network.domains()}")
            time.sleep(0.1)
        for name, digits in HOSPITALS.items():
            way = "only through the relay" if name == BEHIND_A_FIREWALL else "directly"
            told = ", ".join(map(str, digits))
            self.say(f"{name:10} joins the Network, reached {way}; {len(self.shards[name])} images of {told}")

    def upload(self, hospital: Hospital) -> None:
        """An owner uploads the images, and says what may be done with them."""
        dataset = hospital.owner.datasets.upload(
            DATASET,
            {"image": hospital.images.x, "digit": hospital.images.y},
            description="handwritten digits, 8 by 8 points of brightness",
            tags=["handwriting"],
            visibility="public",
            progress=False,
            columns={"image": {"meaning": "brightness, 0 to 1"}, "digit": "label 0..9"},
        )
        dataset.policy(**POLICY)

    def find(self, network: client.NetworkClient) -> dict[str, Dataset]:
        """The scientist, who knows none of the hospitals, looks for labelled images."""
        found = network.search("handwritten digits", tags=["handwriting"], meaning="label 0..9")
        self.say(f"scientist  searches the Network:\n{indented(str(found))}")
        if len(found.datasets) != len(HOSPITALS):
            raise NetworkDemoFailed(f"{len(found.datasets)} datasets were found, and {len(HOSPITALS)} are there")
        datasets = {}
        for item in found.datasets:
            network.domain(item.domain.name).sign_up(SCIENTIST, self.password)
            datasets[item.domain.name] = item.open()
        return datasets

    def train(self, network: client.NetworkClient, datasets: dict[str, Dataset]) -> FederatedRun:
        """One call: each hospital is asked, and those that agree train together."""
        coordinator = network.domain(UNIVERSITY)
        coordinator.sign_up(SCIENTIST, self.password)
        self.say(
            f"           asks all three to train together for {CYCLES} cycles with epsilon {EPSILON:g} each, "
            f"coordinated by {UNIVERSITY!r}"
        )
        began = time.monotonic()
        run = client.federate(
            self.plan,
            self.initial,
            datasets,
            coordinator=coordinator,
            rounds=CYCLES,
            reason="learn to read all ten digits",
            min_domains=len(HOSPITALS),
            epsilon=EPSILON,
            delta=DELTA,
            evaluate=self.held_out.arrays(),
            decide_within_s=PATIENCE_S,
            progress=False,
            **TRAINING,
        )
        run.wait(timeout_s=PATIENCE_S, progress=False)
        took = time.monotonic() - began
        self.say(f"           {CYCLES} cycles in {took:.1f} s; the last:\n{indented(last_lines(run, 4))}")
        for name, dataset in datasets.items():
            budget = dataset.budget()
            self.say(f"{name:10} was charged epsilon {budget.yours:.2f} of {budget.your_cap:g}, once, for all cycles")
        return run

    def judge(self, run: FederatedRun) -> Outcome:
        """Say what came out, and whether it is what it should be."""
        everything = [self.shards[name] for name in HOSPITALS]
        pooled = Digits(
            np.concatenate([each.x for each in everything]), np.concatenate([each.y for each in everything])
        )
        outcome = Outcome(
            together=self.accuracy(run.model()),
            alone={name: self.accuracy(self.train_here(shard)) for name, shard in self.shards.items()},
            pooled=self.accuracy(self.train_here(pooled)),
        )
        alone = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in outcome.alone.items())
        self.say(
            f"\naccuracy on {len(self.held_out)} images that no hospital has: {outcome.together:.1%} together, with "
            f"noise\n  each alone, without noise:              {alone}\n"
            f"  all images in one place, without noise: {outcome.pooled:.1%}"
        )
        if outcome.together < max(outcome.alone.values()) + MARGIN:
            raise NetworkDemoFailed(
                f"the common model reads {outcome.together:.1%} right, hardly more than a hospital reaches alone"
            )
        return outcome

    def train_here(self, images: Digits) -> Params:
        """What training without noise makes of some images."""
        return self.runner.train(self.initial, images.arrays(), seed=self.seed, **ALONE).params

    def accuracy(self, params: Params) -> float:
        """Share of the held-out images that a model reads right."""
        return self.runner.evaluate(params, self.held_out.arrays())["accuracy"]


def deal(digits: Digits, *, seed: int = 0) -> dict[str, Digits]:
    """The images of each hospital: all of its digits, but those that another sees too, which they share."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[int]] = {name: [] for name in HOSPITALS}
    for label in range(digits_data.NUM_CLASSES):
        at_home = [name for name, usual in HOSPITALS.items() if label in usual]
        parts = np.array_split(rng.permutation(np.flatnonzero(digits.y == label)), len(at_home))
        for name, part in zip(at_home, parts, strict=True):
            rows[name].extend(part.tolist())
    return {name: digits.take(np.sort(np.array(chosen, dtype=np.intp))) for name, chosen in rows.items()}


def is_ready(network: client.NetworkClient, name: str) -> bool:
    """Whether a Domain belongs to the Network, and can be called as it should be."""
    try:
        info = network.show(name)
    except (NotFound, Unavailable):
        return False
    is_direct = name in HOSPITALS and name != BEHIND_A_FIREWALL
    return info.state == "online" and bool(info.address) == is_direct


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def indented(text: str) -> str:
    """The lines of a table, set off from those who speak."""
    return "\n".join(f"             {line}" for line in text.splitlines())


def last_lines(run: FederatedRun, num: int) -> str:
    """The head and the last lines of the training's table."""
    lines = str(run.history).splitlines()
    return "\n".join([lines[0], *lines[1:][-num:]])


def find_url(folder: Path) -> str:
    """The address of the Network that was started in a folder; empty if none was."""
    port_file = folder / "network" / "port"
    return f"http://127.0.0.1:{port_file.read_text().strip()}" if port_file.exists() else ""


def run(processes: LocalProcesses, folder: Path, say: Callable[[str], object], *, seed: int = 0) -> Outcome:
    """The whole, with processes of its own."""
    return NetworkDemo(processes, folder, say, seed=seed).run()
