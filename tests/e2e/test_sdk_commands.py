"""The commands of the SDKs as a user runs them, against a Domain that runs as a user runs it.

Should happen: from sign-up to the downloaded model without a line of Python; devices end cleanly when they are told to.
Should not: a traceback for a mistake, exit code 0 for a failure, a secret in the output, a device that weighs more than
90 MB.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from pygrid.edge import load_data
from pygrid.tensors import encode
from support.eventually import eventually_blocking
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.processes import port_of
from support.sdk import EMAIL, PASSWORD

pytestmark = pytest.mark.slow

TIMEOUT_S = 180
HOST = ["host", "--name", "x", "--model"]
SLOW_CYCLES = ["-s", "cycle_length=60", "-s", "min_diffs=1", "-s", "max_diffs=1"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, plan and data as files, and a home of the test's own."""
    made = tmp_path_factory.mktemp("commands")
    logistic_plan().save(made / "logistic.plan")
    (made / "logistic.safetensors").write_bytes(encode(logistic_params()))
    np.savez(made / "data.npz", **logistic_data(200))
    return made


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    home = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "200"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYGRID_")}
    return {**kept, **home, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def start(folder: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    def started(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pygrid", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


@pytest.fixture(scope="module")
def run(folder: Path, environment: dict[str, str]) -> Run:
    def done(*arguments: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pygrid", *arguments]
        options = {"capture_output": True, "text": True, "timeout": TIMEOUT_S, "cwd": folder}
        return subprocess.run(command, input=stdin, env={**environment, **extra}, **options)

    return done


def start_domain(
    start: Callable[..., subprocess.Popen[str]], folder: Path, port: int = 0
) -> tuple[subprocess.Popen[str], int]:
    """A Domain with everything in ``folder``, ready; and its port."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    domain = start("domain", "--port", str(port), "--port-file", str(port_file), "--data-dir", str(folder / "domain"))
    return domain, port_of(domain, port_file, domain.communicate)


def sign_up(run: Run, address: str, **extra: str) -> None:
    done = run("login", address, "--sign-up", "--email", EMAIL, "--password-stdin", stdin=PASSWORD + "\n", **extra)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def url(folder: Path, start: Callable[..., subprocess.Popen[str]], run: Run) -> Iterator[str]:
    """A Domain with its Owner logged in."""
    domain, port = start_domain(start, folder)
    try:
        sign_up(run, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        domain.terminate()
        domain.communicate(timeout=TIMEOUT_S)


def host(run: Run, name: str, *options: str, **extra: str) -> None:
    files = ["--model", "logistic.safetensors", "--plan", "logistic.plan"]
    done = run("host", "--name", name, *files, "-c", "lr=0.1", "-c", "batch_size=20", *options, **extra)
    assert done.returncode == 0, done.stderr


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {process.communicate()}")


def test_from_hosting_to_the_downloaded_model(
    url: str, run: Run, start: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    host(run, "first", "-s", "num_cycles=3", "-s", "cycle_length=60", "-s", "min_workers=2", "-s", "max_diffs=2")
    devices = [start("edge", url, "--model", "first", "--data", "data.npz") for _ in range(2)]
    for device in devices:
        output, errors = device.communicate(timeout=TIMEOUT_S)
        assert (device.returncode, errors) == (0, "")
        assert [f"cycle {n}: reported, 200 examples, accuracy" in output for n in (1, 2, 3)] == [True] * 3
        assert output.splitlines()[-2:] == ["training is over", "done: 3 reports"]

    listed = run("process", "list").stdout.splitlines()
    assert listed[1].split("\t")[:5] == ["first", "1.0", "finished", "3 of 3", "15"]
    assert "3\tcompleted\t2\t2\t0\t400\t" in run("process", "show", "first").stdout
    assert run("process", "watch", "first").stdout.endswith("training is over after 3 cycles\n")
    assert msgspec.json.decode(run("process", "show", "first", "--json").stdout)["num_checkpoints"] == 4

    assert run("model", "download", "first", "-o", "new.safetensors").returncode == 0
    assert run("model", "download", "first", "--checkpoint", "1", "-o", "old.safetensors").returncode == 0
    new, old = load_data(folder / "new.safetensors"), load_data(folder / "old.safetensors")
    np.testing.assert_array_equal(old["weight"], logistic_params()["weight"])
    assert not np.array_equal(new["weight"], old["weight"])
    assert [line.split()[0] for line in run("model", "checkpoints", "first").stdout.splitlines()] == [
        "number",
        "1",
        "2",
        "3",
        "4",
    ]


@pytest.mark.fresh_processes
def test_a_device_is_small(url: str, run: Run, start: Callable[..., subprocess.Popen[str]]) -> None:
    host(run, "small", "-s", "num_cycles=1", "-s", "cycle_length=60", "-s", "min_diffs=2", "-s", "max_diffs=2")
    device = start("edge", url, "--model", "small", "--data", "data.npz")
    wait_for_line(device, "waiting: already assigned")  # it has trained and reported
    status = Path(f"/proc/{device.pid}/status").read_text()
    device.terminate()
    device.communicate(timeout=TIMEOUT_S)
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kb < 90_000


def test_a_device_imports_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys, pygrid.cli.edge, pygrid.edge, pygrid.plans.runner, pygrid.plans.gate\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    unwanted = {"torch", "onnx", "sqlalchemy", "litestar", "alembic", "uvicorn", "httpx", "rich", "cryptography"}
    assert not unwanted & set(done.stdout.split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_waiting_device_at_once(
    url: str, run: Run, start: Callable[..., subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    name = f"waiting-{code}"
    host(run, name, "-s", "num_cycles=1", "-s", "cycle_length=60", "-s", "min_workers=2", "-s", "max_diffs=2")
    device = start("edge", url, "--model", name, "--data", "data.npz")
    wait_for_line(device, "waiting")
    begin = time.monotonic()
    device.send_signal(number)
    output, errors = device.communicate(timeout=TIMEOUT_S)
    assert (device.returncode, errors) == (code, "")
    assert "stopped" in output
    assert time.monotonic() - begin < 30, "the cycle that it waits for takes a minute"


def test_a_signal_ends_a_training_device_between_batches(
    url: str, run: Run, start: Callable[..., subprocess.Popen[str]]
) -> None:
    host(run, "long", "-c", "epochs=1000000", "-s", "num_cycles=1", *SLOW_CYCLES)
    device = start("edge", url, "--model", "long", "--data", "data.npz")
    wait_for_line(device, "training long")
    process = psutil.Process(device.pid)
    before = process.cpu_times().user
    eventually_blocking(lambda: process.cpu_times().user > before + 0.2)  # it trains
    device.terminate()
    output, errors = device.communicate(timeout=TIMEOUT_S)
    assert (device.returncode, errors) == (0, "")
    assert output == "stopped: 0 reports\n"
    finished = run("process", "finish", "long")
    assert finished.stdout == "long 1.0 is finished after 0 cycles\n"


def test_devices_outlive_a_domain_that_is_killed(
    run: Run, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """One device waits for work and one trains when the Domain is killed; both finish the training with its
    successor.
    """
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    domain, port = start_domain(start, tmp_path)
    address = f"http://127.0.0.1:{port}"
    sign_up(run, address, **home)
    rules = ["-s", "num_cycles=2", "-s", "cycle_length=300", "-s", "min_diffs=2", "-s", "max_diffs=2"]
    host(run, "killed", "-c", "epochs=400", *rules, **home)
    devices = [start("edge", address, "--model", "killed", "--data", "data.npz") for _ in range(2)]
    for device in devices:
        wait_for_line(device, "training killed")
    domain.kill()
    domain.communicate(timeout=TIMEOUT_S)
    successor, _ = start_domain(start, tmp_path, port)
    try:
        for device in devices:
            output, errors = device.communicate(timeout=TIMEOUT_S)
            assert (device.returncode, errors) == (0, "")
            assert output.splitlines()[-2:] == ["training is over", "done: 2 reports"]
            assert output.count(f"trying again: no connection to {address}") <= 2  # said once for each time it was away
        shown = run("process", "show", "killed", **home).stdout
        assert shown.count("\tcompleted\t2\t2\t0\t400\t") == 2
    finally:
        successor.terminate()
        successor.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edge", "URL", "--model", "nobody", "--data", "data.npz"], "nobody"),
        (["edge", "URL", "--model", "x", "--data", "missing.npz"], "no data file 'missing.npz'"),
        (["edge", "http://127.0.0.1:1", "--model", "x", "--data", "data.npz", "--once"], "Is the Domain running there"),
        (["edge", "localhost:5000", "--model", "x", "--data", "data.npz"], "write it like http://127.0.0.1:5000"),
        ([*HOST, "logistic.plan", "--plan", "logistic.plan"], "not a safetensors file"),
        ([*HOST, "logistic.safetensors", "--plan", "data.npz"], "plan file"),
        ([*HOST, "logistic.safetensors", "--plan", "logistic.plan", "-s", "x"], "'x' is neither"),
        (
            [*HOST, "logistic.safetensors", "--plan", "logistic.plan", "-s", "cycle_length=-1"],
            "server_config.cycle_length",
        ),
        (["process", "show", "nobody"], "no process 'nobody'"),
        (["model", "download", "nobody", "-o", "x.safetensors"], "no process 'nobody'"),
        (["login", "URL", "--email", EMAIL, "--password-stdin"], ""),
    ],
)
def test_a_mistake_is_told_in_a_paragraph(url: str, run: Run, arguments: list[str], words: str) -> None:
    done = run(*(url if argument == "URL" else argument for argument in arguments), stdin="wrong password\n")
    assert done.returncode == 1
    assert done.stderr.startswith("pygrid: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_session_ends_with_logout(url: str, run: Run, tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert run("login", url, "--email", EMAIL, "--password-stdin", stdin=PASSWORD, **home).returncode == 0
    token = msgspec.json.decode((tmp_path / "pygrid" / "credentials.json").read_bytes())["tokens"][url]
    assert run("process", "list", **home).returncode == 0
    assert run("login", url, "--logout", **home).stdout == f"logged out of {url}\n"
    for extra in (home, {**home, "PYGRID_TOKEN": token}):
        done = run("process", "list", "--url", url, **extra)
        assert done.returncode == 1
        assert f"pygrid login {url}" in done.stderr
        assert token not in done.stderr


def test_a_training_goes_on_from_an_earlier_checkpoint(
    url: str, run: Run, start: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    host(run, "mended", "-s", "num_cycles=3", *SLOW_CYCLES)
    watch = start("process", "watch", "mended", "--plain")
    device = start("edge", url, "--model", "mended", "--data", "data.npz", "--cycles", "2")
    device.communicate(timeout=TIMEOUT_S)
    wait_for_line(watch, "cycle 2 completed")
    watch.terminate()
    watch.communicate(timeout=TIMEOUT_S)
    download = ["model", "download", "mended", "--checkpoint"]
    assert run(*download, "2", "-o", "second.safetensors").returncode == 0
    refused = run("process", "restore", "mended", "--checkpoint", "9")
    assert refused.returncode == 1
    assert "checkpoint 9" in refused.stderr
    done = run("process", "restore", "mended", "--checkpoint", "2")
    assert done.stdout == "mended 1.0 continues from checkpoint 4, which repeats 2\n"
    assert run(*download, "latest", "-o", "latest.safetensors").returncode == 0
    assert (folder / "latest.safetensors").read_bytes() == (folder / "second.safetensors").read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        "login",
        "host",
        "edge",
        *(f"process {name}" for name in ("list", "show", "watch", "finish", "restore")),
        "model download",
    ],
)
def test_help_shows_an_example(run: Run, command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Example:\n  pygrid {command}" in done.stdout
