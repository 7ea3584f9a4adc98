"""Jobs in real Workers, through the driver: forked, sandboxed, watched, ended.

Should happen: results of every kind; failures that say what was used up; a Domain that goes on after any of them.
Should not happen: a job that outlives its limits, its driver, or its fork server; an answer that is longer than it may
be.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from pygrid.compute.driver import LocalLimits
from pygrid.compute.local import LocalDriver
from pygrid.core.job_spec import ColumnRef, JobLimits, JobSpec, PrivacyTerms, Progress, Statistic
from pygrid.errors import Conflict, InvalidInput
from pygrid.plans.runner import Runner
from pygrid.tensors import decode, encode
from support import warm_processes
from support.eventually import eventually
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.processes import children_of

SIZE = 300
ENDLESS = 10**7
LAYERS = {"rlimits", "seccomp", "not root"}


@pytest.fixture
async def driver() -> AsyncIterator[LocalDriver]:
    # Other modules of this process of pytest keep their fork servers for the next Domain.
    warm_processes.end_all()
    async with LocalDriver() as running:
        yield running
        process = server_process()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Columns, plan and model, as a Domain keeps them."""
    data = logistic_data(SIZE)
    data["x"].tofile(tmp_path / "0.bin")
    data["y"].astype(np.int64).tofile(tmp_path / "1.bin")
    (tmp_path / "plan").write_bytes(logistic_plan().data)
    (tmp_path / "model").write_bytes(encode(logistic_params()))
    return tmp_path


def job(folder: Path, **changes: Any) -> JobSpec:
    columns = {
        "x": ColumnRef(str(folder / "0.bin"), "float32", (4,), SIZE),
        "y": ColumnRef(str(folder / "1.bin"), "int64", (), SIZE),
    }
    values: dict[str, Any] = {
        "id": "job",
        "kind": "train",
        "columns": columns,
        "plan_path": str(folder / "plan"),
        "model_path": str(folder / "model"),
        "binding": {"x": "x", "y": "y"},
        "limits": JobLimits(memory_bytes=2**29, cpu_s=30, wall_s=30.0),
    }
    return JobSpec(**{**values, **changes})


def server_process() -> psutil.Process:
    """The fork server, which is the only child of this process that has its module in the command line."""
    (found,) = children_of(psutil.Process(), "forkserver")
    return found


async def running_process() -> psutil.Process:
    """The process of the only job."""
    children = await eventually(lambda: server_process().children())
    process: psutil.Process = children[0]
    return process


async def test_an_exact_job_is_what_the_runner_does(driver: LocalDriver, folder: Path) -> None:
    reports: list[Progress] = []
    result = await driver.run(job(folder, epochs=3, seed=5), reports.append)
    expected = Runner(logistic_plan()).train(logistic_params(), logistic_data(SIZE), epochs=3, seed=5)
    assert result.failure is None
    trained, metadata = decode(result.payload)
    for name, array in expected.params.items():
        np.testing.assert_array_equal(trained[name], array)
    assert json.loads(metadata["metrics"]) == pytest.approx(expected.metrics)
    assert reports[-1].done == reports[-1].total == expected.num_updates
    assert set(result.facts.sandbox) >= LAYERS
    assert result.facts.bytes_out == len(result.payload)
    assert result.facts.cpu_s > 0


async def test_private_jobs_of_each_kind(driver: LocalDriver, folder: Path) -> None:
    terms = PrivacyTerms(1.0, 1.0, 1, 1e-5, SIZE)
    started = time.monotonic()
    train = await driver.run(job(folder, privacy=terms), lambda _: pytest.fail("a private job reports nothing"))
    assert time.monotonic() - started >= 0.24, "the time of a private job is padded"
    assert train.failure is None
    assert decode(train.payload)[1] == {}
    bounds = {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}
    evaluate = await driver.run(job(folder, kind="evaluate", privacy=terms, metric_bounds=bounds))
    assert all(noise > 0 for noise in json.loads(evaluate.payload)["noise_std"].values())
    statistics = (Statistic("mean", "y", 0, 2), Statistic("count"))
    answers = await driver.run(job(folder, kind="statistics", statistics=statistics, privacy=terms))
    assert json.loads(answers.payload)["answers"][1]["value"] == pytest.approx(SIZE, abs=10)


async def test_a_record_that_makes_the_plan_fail_does_not_show(driver: LocalDriver, folder: Path) -> None:
    """With it and without it: the same outcome, media type and size, the same padded time, and no word to whoever
    waits.
    """
    spec = job(folder, privacy=PrivacyTerms(1.0, 1.0, 2, 1e-5, SIZE))
    seen, zeroed = [], []
    for poison in (False, True):
        if poison:
            data = logistic_data(SIZE)
            data["x"][17], data["y"][18] = np.inf, 99
            data["x"].tofile(folder / "0.bin")
            data["y"].tofile(folder / "1.bin")
        result = await driver.run(spec)
        seen.append((result.failure, result.media_type, len(result.payload), decode(result.payload)[1]))
        zeroed.append(result.facts.num_zeroed)
    assert seen[0] == seen[1]
    assert zeroed == [0, 4]


async def test_the_warm_process_is_quiet(driver: LocalDriver) -> None:
    """One thread, so that a fork copies nothing half done; no connection but the one to the Domain, so nobody phones
    home.
    """
    process = server_process()
    assert process.num_threads() == 1
    assert process.net_connections("inet") == []


async def test_noise_is_fresh_in_each_fork(driver: LocalDriver, folder: Path) -> None:
    spec = job(folder, privacy=PrivacyTerms(1.0, 1.0, 1, 1e-5, SIZE))
    assert (await driver.run(spec)).payload != (await driver.run(spec)).payload


async def test_endless_computing_is_ended_by_the_clock(driver: LocalDriver, folder: Path) -> None:
    started = time.monotonic()
    result = await driver.run(job(folder, epochs=ENDLESS, limits=JobLimits(wall_s=0.7)))
    assert time.monotonic() - started < 60
    assert result.failure is not None
    assert result.failure.kind == "out_of_time"
    assert result.payload == b""
    assert (await driver.run(job(folder))).failure is None


async def test_and_by_its_cpu_time(driver: LocalDriver, folder: Path) -> None:
    result = await driver.run(job(folder, epochs=ENDLESS, limits=JobLimits(cpu_s=1, wall_s=60)))
    assert result.failure is not None
    assert result.failure.kind == "out_of_cpu"


def huge(models: dict[str, onnx.ModelProto]) -> None:
    """A tensor of 64 GB, as the gate would never let it through."""
    graph = models["train"].graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([16 * 10**9], np.int64), "size"))
    graph.node.append(onnx.helper.make_node("ConstantOfShape", ["size"], ["sixty-four"], name="huge"))
    for node in graph.node:
        if "metrics/accuracy" in node.output:
            node.output[0] = "honest"
    graph.node.append(onnx.helper.make_node("ReduceMax", ["sixty-four"], ["most"], name="most", keepdims=0))
    graph.node.append(onnx.helper.make_node("Add", ["honest", "most"], ["metrics/accuracy"], name="sum"))


async def test_tensors_of_64_gb_are_refused(driver: LocalDriver, folder: Path) -> None:
    (folder / "plan").write_bytes(logistic_plan(edit=huge).data)
    result = await driver.run(job(folder))
    assert result.failure is not None
    assert result.failure.kind in ("plan_failed", "out_of_memory")
    assert result.facts.max_rss_bytes < 2**29


async def test_a_result_is_no_longer_than_it_may_be(driver: LocalDriver, folder: Path) -> None:
    result = await driver.run(job(folder, limits=JobLimits(max_result_bytes=50)))
    assert result.failure is not None
    assert result.failure.kind == "result_too_large"


async def test_a_model_that_blew_up_is_no_result(driver: LocalDriver, folder: Path) -> None:
    params = {name: np.full_like(array, 3e38) for name, array in logistic_params().items()}
    (folder / "model").write_bytes(encode(params))
    result = await driver.run(job(folder, epochs=2))
    assert result.failure is not None
    assert (result.failure.kind, result.failure.code) == ("plan_failed", "non_finite")


async def test_a_result_as_large_as_the_data_can_be_told(driver: LocalDriver, folder: Path) -> None:
    result = await driver.run(job(folder))
    assert result.facts.bytes_in == SIZE * (16 + 8)
    assert result.facts.bytes_out_ratio == len(result.payload) / (SIZE * 24)


async def test_a_job_that_is_killed_takes_nothing_with_it(driver: LocalDriver, folder: Path) -> None:
    task = asyncio.create_task(driver.run(job(folder, epochs=ENDLESS)))
    (await running_process()).kill()
    result = await task
    assert result.failure is not None
    assert result.failure.kind == "lost"
    assert "SIGKILL" in result.failure.detail
    assert (await driver.run(job(folder))).failure is None


async def test_a_fork_server_that_is_killed_is_replaced(driver: LocalDriver, folder: Path) -> None:
    task = asyncio.create_task(driver.run(job(folder, epochs=ENDLESS)))
    process = await running_process()
    server_process().kill()
    result = await task
    assert result.failure is not None
    assert result.failure.kind == "lost"
    await asyncio.to_thread(psutil.wait_procs, [process], timeout=180)
    assert not process.is_running(), "a job ends with its parent"
    assert (await driver.run(job(folder))).failure is None


async def test_a_caller_that_goes_away_ends_the_job(driver: LocalDriver, folder: Path) -> None:
    task = asyncio.create_task(driver.run(job(folder, epochs=ENDLESS)))
    process = await running_process()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(psutil.wait_procs, [process], timeout=180)
    assert not process.is_running()
    assert (await driver.run(job(folder))).failure is None


async def test_jobs_wait_for_a_slot(folder: Path) -> None:
    async with LocalDriver(LocalLimits(max_concurrent=1)) as driver:
        first = asyncio.create_task(driver.run(job(folder, id="first", epochs=ENDLESS)))
        process = await running_process()
        second = asyncio.create_task(driver.run(job(folder, id="second")))
        third = asyncio.create_task(driver.run(job(folder, id="third")))
        await asyncio.wait([second, third], timeout=0)
        with pytest.raises(Conflict):
            await driver.run(job(folder, id="second"))
        assert server_process().children() == [process]
        third.cancel()
        first.cancel()
        assert (await second).failure is None
        outcomes = await asyncio.gather(first, third, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


async def test_files_that_do_not_fit_are_refused(driver: LocalDriver, folder: Path) -> None:
    (folder / "0.bin").write_bytes(b"short")
    result = await driver.run(job(folder))
    assert result.failure is not None
    assert result.failure.kind == "refused"
    assert "fewer" in result.failure.detail
    (folder / "1.bin").unlink()
    result = await driver.run(job(folder))
    assert result.failure is not None
    assert result.failure.kind == "refused"
    with pytest.raises(InvalidInput):
        await driver.run(job(folder, epochs=-1))


async def test_hostile_bytes_are_refused(driver: LocalDriver, folder: Path) -> None:
    for name, content in (("plan", os.urandom(5000)), ("plan", b""), ("model", os.urandom(5000)), ("model", b"")):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        result = await driver.run(job(folder))
        assert result.failure is not None
        assert result.failure.kind in ("refused", "plan_failed"), name
        (folder / name).write_bytes(kept)


async def test_many_at_once(folder: Path) -> None:
    async with LocalDriver(LocalLimits(max_concurrent=4)) as driver:
        results = await asyncio.gather(*(driver.run(job(folder, id=str(index), seed=index)) for index in range(12)))
    assert [result.failure for result in results] == [None] * 12
    assert len({result.payload for result in results}) == 12


DOMAIN = """
import asyncio, sys, psutil, os, msgspec
from pygrid.core.job_spec import JobSpec
from pygrid.compute.local import LocalDriver
async def main():
    driver = LocalDriver()
    await driver.start()
    task = asyncio.create_task(driver.run(msgspec.json.decode(sys.argv[1], type=JobSpec)))
    while not (jobs := psutil.Process().children(recursive=True)[1:]):
        await asyncio.sleep(0.01)  # between two polls, in a process of its own
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    await task
asyncio.run(main())
"""


def test_nothing_outlives_a_domain_that_is_killed(folder: Path) -> None:
    import msgspec

    spec = msgspec.json.encode(job(folder, epochs=ENDLESS)).decode()
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", DOMAIN, spec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(temporary)}) as domain:
        assert domain.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in domain.stdout.readline().split()]
        assert len(processes) == 2
        domain.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(processes, timeout=180)
    assert (len(gone), alive) == (2, [])
    assert list(temporary.iterdir()) == []


def test_the_doctor_says_what_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pygrid", "worker", "doctor"], capture_output=True, timeout=180, check=False
    )
    text = done.stdout.decode()
    assert "seccomp" in text
    assert "signal the parent" in text
    assert (done.returncode == 0) == ("can run here" in text)
    done = subprocess.run(
        [sys.executable, "-m", "pygrid", "worker", "doctor", "--json"], capture_output=True, timeout=180, check=False
    )
    told = json.loads(done.stdout)
    assert told["sound"] == (done.returncode == 0)
    assert told["uploads"]["sound"] == ("Uploaded files can be read here" in text)
