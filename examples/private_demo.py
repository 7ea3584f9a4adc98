"""A model learns from medical records that its author never sees, within a privacy budget; on this machine, in seconds.

    scripts/demo --only records

A data owner uploads records and opens a budget. A data scientist finds them, tries a plan on the mock twin, trains with
noise and is charged for it, asks for more than the budget has left and is refused, and asks for an exact answer, which
the owner signs off.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cells_data
from pygrid import client
from pygrid.client.datasets import Dataset
from pygrid.edge import load_data
from pygrid.errors import Conflict, PygridError
from pygrid.plans import Plan, Runner
from pygrid.tensors import Params

PLANS = Path(__file__).parent / "plans"
SCIENTIST = "scientist@example.org"
NAME = "cells"
DELTA = 1e-5
"""Well below one over the number of records: at most 1 / (10 x records) is allowed."""
POLICY = {"epsilon": 10.0, "delta": DELTA, "epsilon_per_user": 6.0, "auto_approve": True, "use": "training"}
TRAINING: dict[str, Any] = {"hyper": {"lr": 1.0}, "epochs": 30, "batch_size": 64}
EPSILON = 5.0
"""Of one training: what changes at most when one record is replaced by any other (docs/explanation/privacy.md)."""
MIN_ACCURACY = 0.85
"""Of the private model: guessing the more frequent class gives 0.63; training tells about 0.95 right with noise."""
PATIENCE_S = 60.0


class PrivateDemoFailed(Exception):
    """Something did not come out as it should; the text says what."""


@dataclass(frozen=True)
class Outcome:
    """What came out: accuracies on records that the owner never uploaded, and what was spent."""

    private: float
    exact: float
    majority: float
    epsilon_spent: float


class PrivateDemo:
    """One run on a Domain that is there.

    Args:
        owner: logged in, may upload.
        scientist: logged in as somebody else.
        say: shows a line.
    """

    def __init__(
        self, owner: client.DomainClient, scientist: client.DomainClient, say: Callable[[str], object], *, seed: int = 0
    ) -> None:
        self.owner, self.scientist, self.say = owner, scientist, say
        self.records, self.held_out = cells_data.hold_out(cells_data.load(), seed=seed)
        self.plan = Plan.load(PLANS / "breast_cancer.plan")
        self.initial: Params = load_data(PLANS / "breast_cancer.safetensors")
        self.runner = Runner(self.plan)

    def run(self) -> Outcome:
        """All of it, in order; gives what came out.

        Raises:
            PrivateDemoFailed, PygridError: with what to tell the user.
        """
        self.upload()
        dataset = self.find()
        self.try_on_mock(dataset)
        private = self.train_privately(dataset)
        self.ask_beyond_the_cap(dataset)
        exact = self.ask_exactly(dataset)
        majority = float(max(self.held_out.malignant.mean(), 1 - self.held_out.malignant.mean()))
        outcome = Outcome(self.accuracy(private), self.accuracy(exact), majority, dataset.budget().yours)
        self.judge(outcome)
        return outcome

    def upload(self) -> None:
        """The owner uploads the records and says what may be done with them."""
        dataset = self.owner.datasets.upload(
            NAME,
            self.records.columns(),
            description="30 measurements of the nuclei of cells from a breast mass, and whether it was malignant",
            tags=["oncology"],
            visibility="listed",
            progress=False,
            columns={
                "measurements": {"meaning": "measurements of cell nuclei, as published"},
                "malignant": "label 0..1",
            },
        )
        policy = dataset.policy(**POLICY)
        self.say(
            f"owner      uploads {len(self.records)} records as {NAME!r}: others may know of them, nobody else may "
            f"read them\n           budget: epsilon {policy.epsilon:g} in all, {policy.epsilon_per_user:g} for each "
            f"user, at delta {policy.delta:g}, for a record that is replaced by any other;\n"
            "           private jobs within it need no person"
        )

    def find(self) -> Dataset:
        """The scientist looks for labelled data."""
        found = self.scientist.datasets.search("malignant", meaning="label 0..1")
        self.say(
            "scientist  searches for 'malignant': "
            f"{', '.join(f'{one.name} ({one.num_records} records)' for one in found)}"
        )
        dataset = self.scientist.datasets[NAME]
        try:
            dataset.preview()
        except PygridError as error:
            self.say(f"           asks to see records: refused ({error.code})")
        else:
            raise PrivateDemoFailed("somebody other than the owner was shown records")
        return dataset

    def try_on_mock(self, dataset: Dataset) -> None:
        """The plan, tried here on records that are nobody's."""
        mock = dataset.mock()
        data: dict[str, Any] = {"x": mock["measurements"].astype(np.float32), "y": mock["malignant"].astype(np.int64)}
        result = self.runner.train(self.initial, data, batch_size=32)
        self.say(
            f"           tries the plan on {len(data['y'])} mock records: it runs (loss {result.metrics['loss']:.2f})"
        )

    def train_privately(self, dataset: Dataset) -> Params:
        """Training with noise, which the policy lets pass."""
        job = self.submit(dataset, "learn to tell malignant from benign cells", epsilon=EPSILON, delta=DELTA)
        cost = job.cost
        assert cost is not None
        self.say(
            f"           asks to train with epsilon {EPSILON:g}: {cost.rounds} rounds, each with noise of "
            f"{cost.noise_multiplier:.2f} times the clipping bound"
        )
        info = job.wait(timeout_s=PATIENCE_S).info()
        if info.state != "released":
            raise PrivateDemoFailed(f"the private job is {info.state}: {info.detail}")
        result = job.result()
        budget = dataset.budget()
        self.say(
            f"           gets a model, {self.accuracy(result):.1%} right on other records; charged: epsilon "
            f"{budget.yours:.2f} of {budget.your_cap:g}"
        )
        return result

    def ask_beyond_the_cap(self, dataset: Dataset) -> None:
        """The same job again takes more than this user has left, so the Domain refuses it at once."""
        try:
            self.submit(dataset, "the same again, for an average of both", epsilon=EPSILON, delta=DELTA)
        except Conflict as error:
            if error.code != "budget_exhausted":
                raise
            self.say(f"           asks for the same again: refused ({error.code})\n           {error.detail}")
        else:
            raise PrivateDemoFailed("a job beyond the budget was accepted")

    def ask_exactly(self, dataset: Dataset) -> Params:
        """Without noise a person decides, first on the job and then on its result."""
        job = self.submit(dataset, "how much does the noise cost?")
        job.wait("waiting", timeout_s=PATIENCE_S)
        self.say("           asks for the same without noise: waits for the owner")
        (request,) = self.owner.requests()
        self.say("owner      reads:\n" + "\n".join(f"             {line}" for line in request.sheet().splitlines()))
        request.approve("for comparison only")
        job.wait("held", timeout_s=PATIENCE_S)
        (request,) = self.owner.requests()
        info = request.info()
        self.say(
            f"           approves; it runs, and the result is held: {info.result_bytes} bytes, "
            f"{info.bytes_out_ratio:.2%} of the data; signs that off too"
        )
        request.approve()
        result = job.result()
        self.say(f"scientist  gets the model without noise, {self.accuracy(result):.1%} right")
        return result

    def submit(self, dataset: Dataset, reason: str, **privacy: Any) -> client.Job:
        """The scientist asks to train; the columns are found by what they mean."""
        return self.scientist.submit(
            self.plan, dataset=dataset, model=self.initial, reason=reason, **TRAINING, **privacy
        )

    def accuracy(self, params: Params) -> float:
        """Share of the records that were never uploaded which a model tells right."""
        return self.runner.evaluate(params, self.held_out.ports())["accuracy"]

    def judge(self, outcome: Outcome) -> None:
        """Say what came out, and whether it is what it should be."""
        self.say(
            f"\naccuracy on {len(self.held_out)} records that nobody uploaded: {outcome.private:.1%} with epsilon "
            f"{EPSILON:g}, {outcome.exact:.1%} without noise, {outcome.majority:.1%} by guessing"
        )
        if outcome.private < MIN_ACCURACY:
            raise PrivateDemoFailed(
                f"the private model tells {outcome.private:.1%} right, less than the {MIN_ACCURACY:.0%} that it should"
            )


def run(url: str, owner: client.DomainClient, say: Callable[[str], object], *, seed: int = 0) -> Outcome:
    """The whole on the Domain at ``url``; ``owner`` is logged in there and may upload, the scientist signs up."""
    with client.connect(url) as scientist:
        scientist.sign_up(SCIENTIST, secrets.token_urlsafe(12))
        return PrivateDemo(owner, scientist, say, seed=seed).run()
