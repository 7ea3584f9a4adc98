"""Warm Workers for models, as real processes.

Should happen: they answer behind a closed sandbox; a process that hangs, dies or lies is replaced, and who waited is
told. Should not happen: a question that waits for ever; a process that outlives its use; an answer that the model can't
have given.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pygrid.compute.inference import InferenceLimits, InferenceWorkers, _ModelProcess
from pygrid.core.job_spec import RESULT
from pygrid.core.serving import ServableModel
from pygrid.errors import InvalidInput, Unavailable
from pygrid.plans.serving import check_model_file
from pygrid.sandbox.frames import FRAME_HEADER_BYTES, frame
from pygrid.sandbox.process import Child
from pygrid.tensors import encode
from support.eventually import eventually, turns
from support.plans.models import WEIGHT, linear, lookup, slow

X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
SQUARE = np.zeros((1500, 1500), np.float32)


def servable(path: Path, data: bytes, max_batch_size: int = 8) -> ServableModel:
    path.write_bytes(data)
    report = check_model_file(path, max_batch_size)
    return ServableModel(
        path, report.inputs, report.outputs, max_batch_size, report.rows_independent, len(data), report.peak_bytes
    )


@pytest.fixture
def model(tmp_path: Path) -> ServableModel:
    return servable(tmp_path / "linear", linear())


@pytest.fixture
async def workers() -> AsyncIterator[InferenceWorkers]:
    workers = InferenceWorkers(InferenceLimits(max_models=1, wall_s=0.5))
    yield workers
    await workers.close()
    assert children() == []


def children() -> list[int]:
    """The Workers of this process."""
    mine = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == os.getpid() and "runtime.model_server" in command:
                mine.append(int(folder.name))
    return mine


async def until_gone(pid: int | None = None) -> None:
    """Wait until there is no such Worker any more; None: until there is none."""
    await eventually(lambda: not children() if pid is None else pid not in children())


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_the_process_is_kept_and_is_locked_in(workers: InferenceWorkers, model: ServableModel) -> None:
    for _ in range(3):
        np.testing.assert_allclose((await workers.predict(model, {"x": X}, 5))["y"], X @ WEIGHT, rtol=1e-5)
        (pid,) = children()
    status = status_of(pid)
    assert (status["Seccomp"], status["NoNewPrivs"], status["CapEff"].strip("0")) == ("2", "1", "")
    assert "0" not in status["Uid"].split()


async def test_another_models_turn_ends_the_process(
    workers: InferenceWorkers, model: ServableModel, tmp_path: Path
) -> None:
    await workers.predict(model, {"x": X}, 5)
    (first,) = children()
    other = servable(tmp_path / "lookup", lookup())
    tokens = np.array([2, 1], np.int64)
    np.testing.assert_array_equal((await workers.predict(other, {"token": tokens}, 2))["y"], WEIGHT[tokens])
    await until_gone(first)
    assert len(children()) == 1


async def test_a_model_that_takes_too_long_is_ended(
    workers: InferenceWorkers, model: ServableModel, tmp_path: Path
) -> None:
    long = servable(tmp_path / "slow", slow(), 1)
    with pytest.raises(Unavailable) as caught:
        await workers.predict(long, {"x": SQUARE}, 1)
    assert caught.value.code == "inference_too_slow"
    await until_gone()
    assert "y" in await workers.predict(model, {"x": X}, 5)


async def test_no_room_while_another_model_is_at_work(
    workers: InferenceWorkers, model: ServableModel, tmp_path: Path
) -> None:
    long = servable(tmp_path / "slow", slow(), 1)
    asked = asyncio.create_task(workers.predict(long, {"x": SQUARE}, 1))
    await turns()
    with pytest.raises(Unavailable) as caught:
        await workers.predict(model, {"x": X}, 5)
    assert caught.value.code == "inference_busy"
    assert caught.value.fields["retry_after_s"] == 1
    with pytest.raises(Unavailable):
        await asked


async def test_a_process_that_dies_is_replaced(workers: InferenceWorkers, model: ServableModel) -> None:
    await workers.predict(model, {"x": X}, 5)
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unavailable) as caught:
        await workers.predict(model, {"x": X}, 5)
    assert caught.value.code == "inference_lost"
    assert "y" in await workers.predict(model, {"x": X}, 5)


async def test_values_that_the_model_cant_take_end_nothing(workers: InferenceWorkers, tmp_path: Path) -> None:
    model = servable(tmp_path / "lookup", lookup())
    bad, good = np.array([99], np.int64), np.array([3], np.int64)
    with pytest.raises(InvalidInput) as caught:
        await workers.predict(model, {"token": bad}, 1)
    assert caught.value.code == "inference_failed"
    (pid,) = children()
    answers = await asyncio.gather(
        *(workers.predict(model, {"token": token}, 1) for token in (good, bad, good)), return_exceptions=True
    )
    assert isinstance(answers[1], InvalidInput)
    for answer in (answers[0], answers[2]):
        assert isinstance(answer, dict)
        np.testing.assert_array_equal(answer["y"], WEIGHT[3:])
    assert children() == [pid]


async def test_who_goes_away_holds_nobody_up(workers: InferenceWorkers, model: ServableModel) -> None:
    tasks = [asyncio.create_task(workers.predict(model, {"x": X + i}, 5)) for i in range(4)]
    await turns()
    tasks[0].cancel()
    tasks[2].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False, True, False]


async def test_an_idle_process_is_ended_and_begun_anew(model: ServableModel) -> None:
    workers = InferenceWorkers(InferenceLimits(idle_s=0.1))
    for _ in range(2):
        await workers.predict(model, {"x": X}, 5)
        await until_gone()
    await workers.close()


async def test_closing_tells_who_waits(model: ServableModel, tmp_path: Path) -> None:
    workers = InferenceWorkers()
    asked = [asyncio.create_task(workers.predict(model, {"x": X}, 5)) for _ in range(3)]
    await turns()
    await workers.close()
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, Unavailable)
    with pytest.raises(Unavailable):
        await workers.predict(model, {"x": X}, 5)
    assert children() == []


async def test_closing_waits_for_a_process_that_is_ending(model: ServableModel) -> None:
    idle, forgetful = InferenceWorkers(InferenceLimits(idle_s=0)), InferenceWorkers()
    for workers in (idle, forgetful):
        await workers.predict(model, {"x": X}, 5)
        (pid,) = children()
        forgetting = asyncio.create_task(workers.forget(model.path.name if workers is forgetful else "another"))
        await turns(5)
        await workers.close()
        assert not psutil.pid_exists(pid)
        await forgetting


async def test_a_file_that_is_gone_is_told(workers: InferenceWorkers, model: ServableModel) -> None:
    model.path.unlink()
    with pytest.raises(Unavailable):
        await workers.predict(model, {"x": X}, 5)


@pytest.mark.parametrize(
    "answer",
    [
        frame(RESULT, b"nonsense"),
        frame(RESULT, encode({"y": np.zeros((4, 3), np.float32)})),
        frame(RESULT, encode({"z": np.zeros((5, 3), np.float32)})),
        frame(RESULT, encode({"y": np.zeros((5, 3), np.float64)})),
        frame(RESULT, encode({"y": np.zeros((5, 3), np.float32), "z": np.zeros(1, np.float32)})),
        RESULT + (2**62).to_bytes(FRAME_HEADER_BYTES - 1, "little"),
        b"O" + (2**62).to_bytes(FRAME_HEADER_BYTES - 1, "little"),
        frame(b"O", b"{}"),
        frame(b"?", b""),
    ],
)
async def test_an_answer_that_the_model_cant_have_given_reaches_nobody(model: ServableModel, answer: bytes) -> None:
    """A process that was taken over says what it likes."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    child = Child(subprocess.Popen(["sleep", "60"]), ours)  # noqa: ASYNC220 - a stand-in
    process = _ModelProcess(child, reader, writer)
    with theirs:
        theirs.sendall(answer)
        with pytest.raises(Unavailable):
            await process.run(model, {"x": X}, 5, 5.0)
        assert process.is_gone
        await process.close()
