"""A training that is evaluated on held-out data while it is watched.

Should happen: each checkpoint is evaluated once, the curve is on the Domain, the best checkpoint is found, the training
stops when it does not improve.
Should not happen: a cycle is lost because of an evaluation; an evaluation by somebody who does not manage the process;
a mistake in the data that shows after the first cycle.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygrid.client import DomainClient, EarlyStop, HeldOut, Process, connect, federate
from pygrid.edge import MemoryCache, participate
from pygrid.errors import Forbidden, InvalidInput, NotFound, ShapeMismatch
from pygrid.tensors import Params
from pygrid.transport import AsgiTransport
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.sdk import host, owner_of, running_domain


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[AsgiTransport]:
    with running_domain(tmp_path / "domain") as transport:
        yield transport


@pytest.fixture
def owner(domain: AsgiTransport) -> DomainClient:
    return owner_of(domain)


def train(domain: AsgiTransport) -> threading.Thread:
    """A device that takes part until the training is over."""
    options: dict[str, Any] = {"transport": domain, "cache": MemoryCache(), "wait_s": 1.0}
    thread = threading.Thread(target=participate, args=("", "logistic", logistic_data()), kwargs=options)
    thread.start()
    return thread


def curve(process: Process) -> dict[int, Mapping[str, float]]:
    return {one.checkpoint: one.metrics for one in process.evaluations}


def test_each_checkpoint_is_evaluated_once_and_the_curve_is_kept(
    domain: AsgiTransport, owner: DomainClient, capsys: pytest.CaptureFixture[str]
) -> None:
    process = host(owner, num_cycles=3)
    device = train(domain)
    process.watch(plain=True, evaluate=logistic_data())
    device.join()
    found = curve(process)
    assert list(found) == [2, 3, 4]
    for number, metrics in found.items():
        expected = process.evaluate(logistic_data(), checkpoint=number)
        assert metrics == pytest.approx(expected)
    assert [one.cycle for one in process.evaluations] == [1, 2, 3]
    best = min(found, key=lambda number: found[number]["loss"])
    assert process.best() == best
    aliases = {best: "best", 4: "latest"} if best != 4 else {4: "latest, best"}
    assert {one.number: one.alias for one in process.checkpoints() if one.alias} == aliases
    assert process.best("accuracy") == max(found, key=lambda number: (found[number]["accuracy"], -number))
    for name, array in process.model(best=True).items():
        np.testing.assert_array_equal(array, process.download(best)[name])
        np.testing.assert_array_equal(array, process.download("best")[name])
    assert "held-out data: accuracy" in capsys.readouterr().out
    process.watch(plain=True, evaluate=logistic_data())
    assert curve(process) == found, "a second view evaluates nothing again"


def test_the_training_stops_when_it_does_not_improve(domain: AsgiTransport, owner: DomainClient) -> None:
    process = host(owner, num_cycles=0)
    device = train(domain)
    seen: list[Params] = []

    def worse_and_worse(params: Params) -> dict[str, float]:
        seen.append(params)
        return {"score": [0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4][len(seen) - 1]}

    stop = EarlyStop(patience=2, metric="score", mode="max")
    process.watch(plain=True, evaluate=worse_and_worse, stop_after=stop)
    device.join()
    assert process.info().state == "finished"
    assert [metrics["score"] for metrics in curve(process).values()] == [0.5, 0.9, 0.8, 0.7]
    assert process.best("score", "max") == 3


def test_mistakes_show_before_anything_is_watched(owner: DomainClient) -> None:
    process = host(owner)
    with pytest.raises(InvalidInput, match="stop_after needs evaluate"):
        process.watch(stop_after=3)
    with pytest.raises(InvalidInput, match=r"EarlyStop\.patience is 0"):
        process.watch(evaluate=logistic_data(), stop_after=0)
    with pytest.raises(ShapeMismatch, match="column 'y' is missing"):
        process.watch(evaluate={"x": logistic_data()["x"]})
    with pytest.raises(InvalidInput, match="is an iterator"):
        process.watch(evaluate=HeldOut(iter([logistic_data()])))
    with pytest.raises(NotFound) as caught:
        process.best()
    assert caught.value.code == "evaluation_not_found"
    with pytest.raises(NotFound) as caught:
        process.download("best")
    assert caught.value.code == "evaluation_not_found"


def test_who_does_not_manage_the_process_stores_no_evaluation(domain: AsgiTransport, owner: DomainClient) -> None:
    process = host(owner)
    for checkpoint, metrics, error in (
        (9, {"loss": 0.5}, NotFound),
        (1, {}, InvalidInput),
        (1, {"": 0.5}, InvalidInput),
        (1, {f"m{n}": 0.5 for n in range(33)}, InvalidInput),
    ):
        with pytest.raises(error):
            process.record_evaluation(checkpoint, metrics)
    assert process.record_evaluation(1, {"loss": 0.5}).source == "owner"
    assert process.record_evaluation(1, {"loss": 0.25}).metrics == {"loss": 0.25}
    other = connect(transport=domain)
    other.sign_up("other@example.org", "correct horse battery staple")
    seen = other.process("logistic")
    assert curve(seen) == {1: {"loss": 0.25}}
    with pytest.raises(Forbidden):
        seen.record_evaluation(1, {"loss": 0.0})


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"x": np.zeros((5, 4), np.float32)}, "column 'y' is missing"),
        ({"x": np.zeros((5, 3), np.float32), "y": np.zeros(5, np.int64)}, "'x'"),
        ({"x": np.zeros((5, 4), np.float32), "y": np.full(5, 3)}, "'y'"),
        ({"x": np.zeros((0, 4), np.float32), "y": np.zeros(0, np.int64)}, "no examples"),
    ],
)
def test_data_for_a_training_across_domains_is_checked_before_any_request(data: Any, error: str) -> None:
    """There is no coordinator at this address, and there are no datasets: nothing was asked."""
    nobody = connect("http://127.0.0.1:1")
    with pytest.raises(InvalidInput, match=error):
        federate(logistic_plan(), logistic_params(), [], coordinator=nobody, rounds=1, reason="to learn", evaluate=data)
