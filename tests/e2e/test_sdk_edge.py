"""A device against a real Domain, with the ways in which things go wrong on the way.

Should happen: every report is counted once; a lost answer, a restarted Domain, a closed cycle or a forgotten device
costs at
    most the current cycle; refusals end with the reason.
Should not: a report counted twice or lost, a plan run that did not pass the gate, a device that hangs when it is
cancelled.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pygrid.plans.gate
from pygrid.client import DomainClient
from pygrid.edge import Callbacks, Difference, DiskCache, EdgeClient, MemoryCache, Participation, participate
from pygrid.edge.participation import take_part
from pygrid.errors import (
    Conflict,
    Gone,
    InvalidConfig,
    InvalidInput,
    InvalidPlan,
    NonFinite,
    NotFound,
    PayloadTooLarge,
    PygridError,
    ShapeMismatch,
    Unauthenticated,
    Unavailable,
)
from pygrid.messages.cycles import CycleAccepted, CycleRejected
from pygrid.plans import Runner
from pygrid.tensors import apply_diff, make_diff
from pygrid.transport import AsgiTransport, RetryPolicy
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.sdk import Flaky, host, owner_of, running_domain

FAST = RetryPolicy(base_s=0.01, max_delay_s=0.05, max_elapsed_s=10.0)


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[AsgiTransport]:
    with running_domain(tmp_path / "domain") as transport:
        yield transport


@pytest.fixture
def owner(domain: AsgiTransport) -> DomainClient:
    return owner_of(domain)


@pytest.fixture
def flaky(domain: AsgiTransport) -> Flaky:
    return Flaky(domain)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the devices of many tests, as it may be: plans then pass the gate once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def device(flaky: Flaky, cache_dir: Path) -> Callable[..., EdgeClient]:
    def make(model: str = "logistic", **options: Any) -> EdgeClient:
        return EdgeClient("", model, transport=flaky, **{"retries": FAST, "cache_dir": cache_dir, **options})

    return make


def accepted(client: EdgeClient, wait_s: float = 2.0) -> CycleAccepted:
    answer = client.request_cycle(wait_s)
    assert isinstance(answer, CycleAccepted), answer
    return answer


# -- step by step ------------------------------------------------------------------------------------------------------


def test_one_cycle_step_by_step_gives_the_right_checkpoint(
    owner: DomainClient, device: Callable[..., EdgeClient]
) -> None:
    process = host(owner)
    client, data = device(), logistic_data()
    assert len(client.authenticate()) == 36
    assert accepted(client).cycle == 1
    model = client.fetch_model()
    assert client.fetch_plan().id == logistic_plan().id
    result = client.train(data, seed=7)
    client.report(make_diff(model, result.params), result.num_examples, result.metrics)
    process.wait(1, timeout_s=180)

    expected = Runner(logistic_plan()).train(
        logistic_params(), data, epochs=2, batch_size=16, hyper={"lr": 0.1}, seed=7
    )
    downloaded = process.download()
    for name, array in apply_diff(model, make_diff(model, expected.params)).items():
        # One device's mean is its diff, summed in float64 and rounded once.
        np.testing.assert_allclose(downloaded[name], array, rtol=0, atol=1e-6)
    cycle = process.cycles()[0]
    assert (cycle.num_reports, cycle.num_examples) == (1, 50)
    assert cycle.metrics == pytest.approx(result.metrics)


def test_steps_out_of_order_say_what_comes_first(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner)
    client = device()
    for step in (
        client.fetch_model,
        client.fetch_plan,
        lambda: client.train(logistic_data()),
        lambda: client.report({}),
    ):
        with pytest.raises(Conflict, match=r"request_cycle\(\) first") as caught:
            step()
        assert caught.value.code == "no_assignment"


def test_downloads_are_kept_and_shared(
    owner: DomainClient, device: Callable[..., EdgeClient], flaky: Flaky, tmp_path: Path
) -> None:
    host(owner, max_diffs=3, min_diffs=3)
    for _ in range(3):
        client = device(cache_dir=tmp_path / "cache")
        accepted(client)
        client.train(logistic_data())
    assert flaky.paths().count("get-model") == 1
    assert flaky.paths().count("get-plan") == 1


def test_asking_again_gives_a_new_key_and_ends_the_old_one(
    owner: DomainClient, device: Callable[..., EdgeClient]
) -> None:
    process = host(owner)
    client = device()
    first = accepted(client)
    diff = {name: np.zeros_like(array) for name, array in client.fetch_model().items()}
    second = accepted(client)
    assert second.request_key != first.request_key
    client.assignment = first
    with pytest.raises(Unauthenticated) as caught:
        client.report(diff)
    assert caught.value.code == "invalid_request_key"
    client.assignment = second
    client.report(diff)
    assert process.wait(1, timeout_s=180).num_checkpoints == 2


def test_a_key_is_good_for_one_content(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    process = host(owner)
    client = device()
    key = accepted(client)
    diff = {name: np.zeros_like(array) for name, array in client.fetch_model().items()}
    client.report(diff)
    client.assignment = key
    client.report(diff)  # the same again is the same report
    client.assignment = key
    with pytest.raises(Conflict) as caught:
        client.report({name: array + 1 for name, array in diff.items()})
    assert caught.value.code == "already_reported"
    process.wait(1, timeout_s=180)
    assert process.cycles()[0].num_reports == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda diff: {"weight": diff["weight"]}, ShapeMismatch),
        (lambda diff: {**diff, "bias": diff["bias"].reshape(1, -1)}, ShapeMismatch),
        (lambda diff: {**diff, "bias": diff["bias"] + np.nan}, NonFinite),
        (lambda diff: {**diff, "more": np.zeros(10**6, np.float32)}, PayloadTooLarge),
    ],
)
def test_a_diff_that_does_not_fit_is_refused_and_the_key_stays_good(
    owner: DomainClient, device: Callable[..., EdgeClient], change: Any, error: type[PygridError]
) -> None:
    process = host(owner)
    client = device()
    accepted(client)
    diff = {name: np.zeros_like(array) for name, array in client.fetch_model().items()}
    with pytest.raises(error):
        client.report(change(diff))
    client.report(diff)
    process.wait(1, timeout_s=180)
    assert process.cycles()[0].num_reports == 1


def test_speed_is_measured_where_it_is_asked_for(
    owner: DomainClient, device: Callable[..., EdgeClient], flaky: Flaky
) -> None:
    host(owner, minimum_upload_speed=0.001, minimum_download_speed=0.001)
    client = device()
    accepted(client)
    assert client.speed is not None
    assert client.speed.ping > 0
    assert client.speed.download > 0.001
    assert client.speed.upload > 0.001
    before = len(flaky.requests)
    client.request_cycle()
    assert len(flaky.requests) == before + 1  # measured once


def test_a_slow_device_is_told_so(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner, minimum_upload_speed=1e6, minimum_download_speed=0)
    answer = device().request_cycle(wait_s=0)
    assert isinstance(answer, CycleRejected)
    assert answer.reason == "too_slow"


def test_a_plan_passes_the_gate_once_per_content(
    owner: DomainClient, device: Callable[..., EdgeClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host(owner)
    checked: list[str] = []
    really = pygrid.plans.gate.check_in_child

    def counted(data: bytes) -> Any:
        checked.append(hashlib.sha256(data).hexdigest())
        return really(data)

    monkeypatch.setattr(pygrid.plans.gate, "check_in_child", counted)
    for _ in range(2):
        client = device(cache_dir=tmp_path / "cache")
        accepted(client)
        client.fetch_plan()
    assert checked == [logistic_plan().id]


def test_a_plan_that_the_gate_refuses_is_not_run(
    owner: DomainClient, device: Callable[..., EdgeClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(data: bytes) -> Any:
        raise InvalidPlan("operator Loop is not allowed", code="plan_operator_forbidden")

    host(owner)
    monkeypatch.setattr(pygrid.plans.gate, "check_in_child", refuse)
    for _ in range(2):  # no verdict is kept of a refusal
        client = device(cache_dir=tmp_path / "cache")
        accepted(client)
        with pytest.raises(InvalidPlan, match="Loop"):
            client.train(logistic_data())


def test_errors_name_what_is_wrong(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    with pytest.raises(NotFound) as caught:
        device("unknown").authenticate()
    assert caught.value.code == "process_not_found"
    with pytest.raises(InvalidConfig, match="batch_size is 'many'"):
        host(owner, client_config={"batch_size": "many"})
    host(owner)
    client = device(plan_name="other")
    client.assignment = accepted(client)
    with pytest.raises(NotFound, match="no plan 'other'; it has: training_plan"):
        client.fetch_plan()


def test_a_device_waits_for_a_process_that_is_not_hosted(
    owner: DomainClient, device: Callable[..., EdgeClient]
) -> None:
    told: list[tuple[float, float]] = []

    def missing(waited_s: float, left_s: float) -> None:
        told.append((waited_s, left_s))
        if len(told) == 1:
            host(owner, "later", num_cycles=1)

    callbacks = Callbacks(on_missing=missing)
    done = take_part(device("later"), logistic_data(), callbacks=callbacks, process_wait_s=60.0)
    assert (done.num_reports, done.finished) == (1, True)
    assert told
    assert all(0 <= waited_s < 60 and 0 < left_s <= 60 for waited_s, left_s in told)


def test_the_wait_for_a_process_has_an_end(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    with pytest.raises(NotFound) as caught:
        take_part(device("never"), logistic_data(), process_wait_s=0.2)
    assert caught.value.code == "process_not_found"
    cancel = threading.Event()
    callbacks = Callbacks(on_missing=lambda waited_s, left_s: cancel.set())
    done = take_part(device("never"), logistic_data(), callbacks=callbacks, cancel=cancel, process_wait_s=3600.0)
    assert (done.cancelled, done.num_reports) == (True, 0)
    with pytest.raises(InvalidInput, match="process_wait_s"):
        take_part(device("never"), logistic_data(), process_wait_s=-1.0)


def test_a_process_that_asks_for_a_token_gets_it(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    import jwt

    secret = "x" * 32
    host(owner, authentication={"secret": secret})
    with pytest.raises(Unauthenticated) as caught:
        device().authenticate()
    assert caught.value.code == "auth_token_missing"
    with pytest.raises(Unauthenticated):
        device(auth_token="wrong").authenticate()
    assert device(auth_token=jwt.encode({}, secret, "HS256")).authenticate()


# -- the whole part ----------------------------------------------------------------------------------------------------


def part(client: EdgeClient, **options: Any) -> Participation:
    return take_part(client, logistic_data(), wait_s=2.0, **options)


def test_taking_part_until_training_is_over(owner: DomainClient, flaky: Flaky, tmp_path: Path) -> None:
    process = host(owner, num_cycles=3)
    happened: list[Any] = []
    callbacks = Callbacks(
        on_accepted=lambda a: happened.append(("accepted", a.cycle)),
        on_report=lambda a, r: happened.append(("reported", a.cycle)),
        on_rejected=lambda reason, timeout: happened.append((reason, timeout)),
        on_finished=lambda: happened.append("finished"),
    )
    done = participate(
        "", "logistic", logistic_data(), transport=flaky, cache=MemoryCache(), callbacks=callbacks, wait_s=2.0
    )
    assert (done.num_reports, done.num_examples, done.num_lost, done.finished) == (3, 150, 0, True)
    cycles = [(step, n) for n in (1, 2, 3) for step in ("accepted", "reported")]
    assert [h for h in happened if h[0] != "between_cycles"] == [*cycles, ("training_finished", None), "finished"]
    assert process.info().state == "finished"
    assert [cycle.num_reports for cycle in process.cycles()] == [1, 1, 1]


def test_progress_is_told_after_each_update(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner, client_config={"epochs": 3, "batch_size": 25, "max_updates": 5})
    seen: list[tuple[int, int, int | None]] = []
    callbacks = Callbacks(on_progress=lambda epoch, updates, total, metrics: seen.append((epoch, updates, total)))
    part(device(), cycles=1, callbacks=callbacks)
    assert seen == [(0, 1, 5), (0, 2, 5), (1, 3, 5), (1, 4, 5), (2, 5, 5)]


@pytest.mark.parametrize("step", ["lose_answer", "lose_request", Unavailable("starting", retry_after_s=0)])
@pytest.mark.parametrize("path", ["authenticate", "cycle-request", "get-model", "get-plan", "report"])
def test_a_lost_connection_anywhere_loses_no_report_and_counts_none_twice(
    owner: DomainClient, device: Callable[..., EdgeClient], flaky: Flaky, path: str, step: Any
) -> None:
    process = host(owner)
    flaky.plan(path, step, step)
    # What breaks has to happen: nothing is in the cache yet where a download breaks.
    done = part(device(cache=MemoryCache()) if path.startswith("get-") else device())
    assert flaky.paths().count(path) >= 3
    assert (done.num_reports, done.num_lost, done.finished) == (2, 0, True)
    assert [(cycle.num_reports, cycle.num_examples) for cycle in process.cycles()] == [(1, 50), (1, 50)]


def test_a_closed_cycle_is_followed_by_the_next(
    owner: DomainClient, device: Callable[..., EdgeClient], flaky: Flaky
) -> None:
    process = host(owner, num_cycles=3)
    other = device()

    def other_is_faster() -> None:
        """Fills the cycle that both were admitted to, just before the report of the first comes in."""
        accepted(other)
        model = other.fetch_model()
        other.report(Difference(model, other.train(logistic_data(seed=5), model=model).params), 50)
        process.wait(1, timeout_s=180)

    lost: list[PygridError] = []
    flaky.plan("report", other_is_faster)
    done = part(device(), callbacks=Callbacks(on_error=lost.append))
    assert (done.num_reports, done.num_lost, done.finished) == (2, 1, True)
    assert [type(error) for error in lost] == [Gone]
    assert [cycle.num_reports for cycle in process.cycles()] == [1, 1, 1]


def test_a_device_that_was_forgotten_introduces_itself_again(
    owner: DomainClient, device: Callable[..., EdgeClient]
) -> None:
    host(owner)
    client = device(client_id="00000000-0000-4000-8000-000000000000")
    assert part(client, cycles=1).num_reports == 1


def test_training_that_outlasts_the_cycle_is_given_up(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner, cycle_length=1, num_cycles=2, client_config={"epochs": 1})
    slow, num_slow = [True], [0]

    def batches() -> Iterator[dict[str, Any]]:
        for _ in range(100):
            yield logistic_data(8)
            num_slow[0] += slow[0]
            time.sleep(0.05 if slow[0] else 0)  # so that training outlasts the cycle

    lost: list[PygridError] = []

    def on_error(error: PygridError) -> None:
        lost.append(error)
        slow[0] = False

    done = take_part(device(), batches, cycles=1, wait_s=5.0, callbacks=Callbacks(on_error=on_error))
    assert (done.num_reports, done.num_lost) == (1, 1)
    assert "while this device was still training" in lost[0].detail
    assert num_slow[0] < 100, "the training ended before all of its batches"


def test_a_diverged_training_is_not_reported(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    process = host(owner, client_config={"lr": 1.0, "epochs": 20})
    data = logistic_data()
    data["x"] = data["x"] * np.float32(1e30)
    with pytest.raises(NonFinite, match="diverged"):
        take_part(device(), data, cycles=1, wait_s=2.0)
    assert process.cycles()[0].num_reports == 0


def test_once_ends_where_there_is_no_work(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner, min_workers=2, min_diffs=2, max_diffs=2)
    reasons: list[Any] = []
    callbacks = Callbacks(on_rejected=lambda reason, timeout: reasons.append(reason))
    done = take_part(device(), logistic_data(), until_finished=False, wait_s=0.0, callbacks=callbacks)
    assert (done.num_reports, done.finished, reasons) == (0, False, ["waiting_for_workers"])


def test_cancelling_ends_a_training_between_batches(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    process = host(owner)
    cancel = threading.Event()
    callbacks = Callbacks(on_progress=lambda *_: cancel.set())
    done = part(device(), cancel=cancel, callbacks=callbacks)
    assert (done.num_reports, done.cancelled) == (0, True)
    assert process.cycles()[0].num_reports == 0


def test_data_may_come_from_a_function(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner)
    calls: list[int] = []

    def data() -> Iterator[dict[str, Any]]:
        calls.append(1)
        return iter([logistic_data(8), logistic_data(5)])

    host(owner, "streamed", client_config={"epochs": 1})
    done = take_part(device("streamed"), data, wait_s=2.0)
    assert (done.num_reports, done.num_examples, len(calls)) == (2, 26, 2)


def test_what_would_fail_later_fails_at_once(device: Callable[..., EdgeClient], flaky: Flaky) -> None:
    with pytest.raises(InvalidInput, match="empty after the first cycle"):
        take_part(device(), iter([logistic_data()]))
    with pytest.raises(InvalidInput, match="cycles is 0"):
        take_part(device(), logistic_data(), cycles=0)
    assert flaky.requests == []


def test_data_that_does_not_fit_is_explained(owner: DomainClient, device: Callable[..., EdgeClient]) -> None:
    host(owner)
    with pytest.raises(ShapeMismatch, match="column 'y' is missing"):
        take_part(device(), {"x": logistic_data()["x"]}, wait_s=2.0)


def test_a_restarted_domain_goes_on_where_it_was(tmp_path: Path) -> None:
    """The Domain stops while the device trains; the report goes to its successor."""
    cache = DiskCache(tmp_path / "cache")
    with running_domain(tmp_path / "domain") as first:
        host(owner_of(first))
        flaky = Flaky(first)
        client = EdgeClient("", "logistic", transport=flaky, cache=cache, retries=FAST)
        accepted(client)
        model = client.fetch_model()
        result = client.train(logistic_data(), model=model)
    with running_domain(tmp_path / "domain") as second:
        flaky.inner = second
        client.report(Difference(model, result.params), result.num_examples, result.metrics)
        process = owner_of(second).process("logistic")
        process.wait(1, timeout_s=180)
        assert part(client).finished
        assert [cycle.num_reports for cycle in process.cycles()] == [1, 1]
