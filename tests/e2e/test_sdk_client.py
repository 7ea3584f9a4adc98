"""A model owner against a real Domain.

Should happen: what was hosted comes back as it was; progress can be followed, also after a lost connection; errors
    say what to do.
Should not: a half-written download, a process hosted twice, a call that needs a session made without saying so.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pygrid.client import DomainClient, Process, connect
from pygrid.client.display import training_view
from pygrid.edge import MemoryCache, participate
from pygrid.errors import (
    Conflict,
    InvalidConfig,
    InvalidInput,
    NotFound,
    PygridError,
    ShapeMismatch,
    Unauthenticated,
    Unavailable,
)
from pygrid.plans import Runner
from pygrid.transport import AsgiTransport
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.sdk import EMAIL, Flaky, host, owner_of, running_domain


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[AsgiTransport]:
    with running_domain(tmp_path / "domain") as transport:
        yield transport


@pytest.fixture
def flaky(domain: AsgiTransport) -> Flaky:
    return Flaky(domain)


@pytest.fixture
def owner(domain: AsgiTransport, flaky: Flaky) -> DomainClient:
    return connect(token=owner_of(domain).token, transport=flaky)


def train(flaky: Flaky, name: str = "logistic", cycles: int | None = None) -> None:
    participate("", name, logistic_data(), transport=flaky, cache=MemoryCache(), cycles=cycles, wait_s=2.0)


def test_what_was_hosted_comes_back_as_it_was(owner: DomainClient) -> None:
    hosted = host(owner, client_config={"note": "ü"})
    found = owner.process("logistic")
    assert (found.id, found.name, found.version) == (hosted.id, "logistic", "1.0")
    info = found.info()
    assert info.client_config == {
        "epochs": 2,
        "batch_size": 16,
        "lr": 0.1,
        "note": "ü",
        "name": "logistic",
        "version": "1.0",
    }
    assert info.server_config["num_cycles"] == 2
    assert (info.state, info.num_parameters) == ("active", 15)
    assert found.plan().data == logistic_plan().data
    assert found.plan("training_plan").id == info.plans[0].plan_hash
    for name, array in found.download(1).items():
        np.testing.assert_array_equal(array, logistic_params()[name])
    assert [info.version for info in owner.processes("logistic", "1.0")] == ["1.0"]


def test_the_newest_version_is_found(owner: DomainClient) -> None:
    for version in ("1.0", "2.0", "1.5"):
        host(owner, version=version)
    assert owner.process("logistic").version == "1.5"
    assert owner.process("logistic", "2.0").version == "2.0"
    assert [info.version for info in owner.processes()] == ["1.5", "2.0", "1.0"]


def test_a_training_from_the_owners_side(owner: DomainClient, flaky: Flaky, tmp_path: Path) -> None:
    hosted = host(owner, num_cycles=3)
    train(flaky)
    info = hosted.wait(timeout_s=180)
    assert (info.state, info.num_checkpoints) == ("finished", 4)
    assert [cycle.sequence for cycle in hosted.cycles()] == [1, 2, 3]
    assert [cycle.sequence for cycle in hosted.cycles(after=2)] == [3]
    assert [(c.number, c.alias) for c in hosted.checkpoints()] == [(1, ""), (2, ""), (3, ""), (4, "latest")]
    file = tmp_path / "model.safetensors"
    latest = hosted.download(path=file)
    assert [path.name for path in tmp_path.glob("*model*")] == ["model.safetensors"]
    np.testing.assert_array_equal(latest["weight"], hosted.download(4)["weight"])
    expected = Runner(logistic_plan()).evaluate(latest, logistic_data())
    assert hosted.evaluate(logistic_data()) == expected
    assert hosted.evaluate(logistic_data(), plan=logistic_plan(), checkpoint=1) != expected


def test_finishing_ends_the_training(owner: DomainClient, flaky: Flaky) -> None:
    hosted = host(owner, num_cycles=100)
    train(flaky, cycles=1)
    hosted.wait(1, timeout_s=180)
    hosted.finish()
    info = hosted.wait(timeout_s=180)
    assert (info.state, info.num_checkpoints) == ("finished", 2)
    train(flaky)  # a device is told so and ends


def test_waiting_ends_after_the_time_given(owner: DomainClient) -> None:
    hosted = host(owner)
    with pytest.raises(Unavailable, match="has completed 0 cycles; training continues"):
        hosted.wait(1, timeout_s=0.1)
    with pytest.raises(InvalidInput):
        hosted.wait(0)


@pytest.mark.parametrize("lose", [False, True])
def test_events_tell_the_whole_story_once(owner: DomainClient, flaky: Flaky, lose: bool) -> None:
    hosted = host(owner)
    if lose:
        flaky.plan("events", "lose_request", "lose_request")
    story: list[Any] = []
    device = threading.Thread(target=train, args=(flaky,))
    for event in hosted.events(after=0):
        if event.kind == "process_hosted":
            device.start()
        story.append((event.id, event.kind, event.cycle))
    device.join()
    assert [event_id for event_id, _, _ in story] == sorted({event_id for event_id, _, _ in story})
    assert [(kind, cycle) for _, kind, cycle in story if kind in ("cycle_completed", "process_finished")] == [
        ("cycle_completed", 1),
        ("cycle_completed", 2),
        ("process_finished", 2),
    ]
    assert [event.id for event in hosted.events(after=story[2][0])] == [event_id for event_id, _, _ in story[3:]]


@pytest.mark.parametrize("plain", [True, False])
def test_watching_shows_every_cycle_and_ends(owner: DomainClient, flaky: Flaky, plain: bool) -> None:
    hosted = host(owner)
    device = threading.Thread(target=train, args=(flaky,))
    device.start()
    screen = Console(file=io.StringIO(), width=120, force_terminal=not plain)
    training_view.watch(hosted, plain=plain, console=screen, poll_s=0.02)
    device.join()
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    if plain:
        lines = text.splitlines()
        assert [line.partition(":")[0] for line in lines if "completed" in line] == [
            "cycle 1 completed",
            "cycle 2 completed",
        ]
        assert lines[-1] == "training is over after 2 cycles"
    else:
        assert "2 of 2" in text
        assert "accuracy" in text


def test_watching_can_be_interrupted(owner: DomainClient, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = host(owner)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_view.time, "sleep", interrupt)
    screen = Console(file=io.StringIO())
    training_view.watch(hosted, plain=True, console=screen)
    assert isinstance(screen.file, io.StringIO)
    assert "training continues" in screen.file.getvalue()


def test_a_notebook_shows_what_is_going_on(owner: DomainClient, flaky: Flaky) -> None:
    hosted = host(owner, "a<b")
    assert "<td style='text-align:left'>a&lt;b 1.0</td>" in hosted._repr_html_()
    assert "1 (open): 0 reports of 0 devices" in hosted._repr_html_()
    flaky.plan(str(hosted.id), *[Unavailable("the Domain is down", code="x")] * 100)
    hosted._api._retries = type(hosted._api._retries)(max_elapsed_s=0)
    assert "the Domain is down" in hosted._repr_html_()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d: host(d), Conflict, "another version"),
        (lambda d: host(d, "other", num_cycles=-1), InvalidConfig, "num_cycles"),
        (lambda d: host(d, "other", typo=1), InvalidConfig, "typo"),
        (lambda d: d.host("other", "1", model={"w": np.zeros(2, np.float32)}, plans=logistic_plan()), PygridError, ""),
        (lambda d: d.process("nobody"), NotFound, "no process 'nobody'; it has: logistic"),
        (lambda d: d.process("logistic", "9"), NotFound, "'logistic' in version '9'"),
        (lambda d: d.process("logistic").download(9), NotFound, "9"),
        (lambda d: d.process("logistic").plan("other"), NotFound, "no plan 'other'; it has: training_plan"),
        (
            lambda d: d.process("logistic").evaluate({"x": np.zeros((1, 4), np.float32)}),
            ShapeMismatch,
            "'y' is missing",
        ),
        (lambda d: d.sign_up(EMAIL, "another password"), Conflict, ""),
    ],
)
def test_mistakes_are_explained(owner: DomainClient, call: Any, error: type[PygridError], words: str) -> None:
    host(owner)
    with pytest.raises(error) as caught:
        call(owner)
    assert words in caught.value.detail
    assert [info.name for info in owner.processes()] == ["logistic"]


def test_without_a_session_the_way_to_one_is_told(domain: AsgiTransport) -> None:
    hosted = host(owner_of(domain))
    stranger = connect(transport=domain)
    own = Process(stranger._api, hosted.info())
    for call in (stranger.processes, lambda: host(stranger, "x"), stranger.logout, own.info):
        with pytest.raises(
            Unauthenticated, match=r"nobody is logged in; log in with .* pygrid login http://in-process"
        ):
            call()
    with pytest.raises(Unauthenticated, match="the session has ended"):
        connect(token="0" * 64, transport=domain).processes()
    with pytest.raises(Unauthenticated) as caught:
        stranger.login(EMAIL, "wrong password")
    assert caught.value.code == "invalid_credentials"
    assert "pygrid login" not in caught.value.detail


def test_a_session_ends_with_logout(owner: DomainClient) -> None:
    token = owner.token
    owner.logout()
    assert owner.token is None
    owner._api.token = token
    with pytest.raises(Unauthenticated):
        owner.processes()


def test_a_download_that_breaks_off_leaves_no_file(owner: DomainClient, flaky: Flaky, tmp_path: Path) -> None:
    hosted = host(owner)
    flaky.plan("retrieve-model", PygridError("broken"))
    with pytest.raises(PygridError, match="broken"):
        hosted.download(path=tmp_path / "m.safetensors")
    assert list(tmp_path.glob("*m.safetensors*")) == []
    flaky.plan("retrieve-model", "lose_answer")
    assert hosted.download(path=tmp_path / "m.safetensors").keys() == logistic_params().keys()


def test_a_module_of_pytorch_is_a_model(owner: DomainClient) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(4, 3)
    hosted = owner.host("torch", "1", model=module, plans=logistic_plan(), server_config={"cycle_length": 60})
    np.testing.assert_array_equal(hosted.download()["weight"], module.weight.detach().numpy())
