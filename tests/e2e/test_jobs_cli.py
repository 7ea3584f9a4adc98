"""The commands about jobs as their two sides run them, against a Domain that runs as a user runs it.

Should happen: a private job runs by policy and its model is written to a file; an exact one waits, is looked at,
approved, held, and then let out or denied; both sides see where it is; the budget is shown to each as far as they may
know. Should not: a result before it is released; a decision that was not confirmed; a job of others; a traceback for a
mistake.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from local_processes import LocalProcesses
from pygrid.edge import load_data
from pygrid.tensors import encode
from support.plans.handmade import logistic_data, logistic_params, logistic_plan
from support.plans.models import WEIGHT, linear

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery staple"
TIMEOUT_S = 180
TRAIN = ["job", "submit", "flowers", "--plan", "logistic.plan", "--model", "logistic.safetensors", "-p", "lr=0.1"]
PRIVATE = ["--epsilon", "2", "--delta", "1e-5"]
COUNT = ["job", "submit", "flowers", "-s", "count", "-s", "count,by=y,keys=0|1|2"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("jobs")
    logistic_plan().save(made / "logistic.plan")
    (made / "logistic.safetensors").write_bytes(encode(logistic_params()))
    np.savez(made / "flowers.npz", **logistic_data(300))
    (made / "linear.onnx").write_bytes(linear())
    return made


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with LocalProcesses(folder / "logs") as processes:
        yield processes.start_domain(folder / "domain")


def user(folder: Path, url: str, name: str) -> Run:
    """Runs commands as somebody with an account and a home of their own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYGRID_")}
    env = {**kept, "XDG_CONFIG_HOME": str(folder / name), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pygrid", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, env=env, cwd=folder
        )

    email = f"{name}@example.org"
    done = run("login", url, "--sign-up", "--email", email, "--password-stdin", stdin=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def owner(folder: Path, url: str) -> Run:
    """Holds the dataset; its first columns fit the plan by name."""
    run = user(folder, url, "owner")
    upload = ["dataset", "add", "flowers.npz", "--visibility", "listed", "-c", "y:int32,meaning=label 0..2"]
    assert run(*upload).returncode == 0
    done = run(
        "budget", "set", "flowers", "--epsilon", "10", "--delta", "1e-5", "--epsilon-per-user", "5", "--auto-approve"
    )
    assert done.returncode == 0, done.stderr
    assert "run without a decision" in done.stdout
    return run


@pytest.fixture(scope="module")
def scientist(owner: Run, folder: Path, url: str) -> Run:
    return user(folder, url, "scientist")


def said(run: Run, *arguments: str, stdin: str = "") -> str:
    """The output of a command that succeeds."""
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 0, (arguments, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


def refused(run: Run, *arguments: str, stdin: str = "") -> str:
    """What a command that fails says: one paragraph, no traceback."""
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 1, (arguments, done.stdout)
    assert "Traceback" not in done.stderr
    return done.stderr


def wait_for(run: Run, job: str, state: str) -> None:
    for _ in range(100):
        if json.loads(said(run, "job", "show", job, "--json"))["state"] == state:
            return
    raise AssertionError(said(run, "job", "show", job))


def ask(run: Run, *arguments: str) -> str:
    """Submit; gives the job's id."""
    return said(run, *arguments, "--reason", "a study").splitlines()[0]


def test_a_private_job_runs_by_policy(owner: Run, scientist: Run, folder: Path) -> None:
    output = said(
        scientist, *TRAIN, *PRIVATE, "--epochs", "2", "--reason", "a study", "-o", "trained.safetensors"
    ).splitlines()
    assert output[1] == f"trained.safetensors: {(folder / 'trained.safetensors').stat().st_size:,} bytes"
    assert load_data(folder / "trained.safetensors").keys() == logistic_params().keys()
    job = output[0]
    sheet = said(scientist, "job", "show", job[:12])
    assert "released" in sheet
    assert "epsilon 2, delta 0.00001 for each record" in sheet
    assert said(scientist, "job", "watch", job).strip() == "released"
    assert job in said(scientist, "job", "list", "--mine")
    assert job in said(owner, "job", "list", "--dataset", "flowers", "--state", "released")
    budget = json.loads(said(scientist, "budget", "show", "flowers", "--json"))
    assert 0 < budget["yours"] <= 2
    assert budget["yours"] + budget["your_left"] == pytest.approx(5)
    assert f"epsilon {budget['yours']:.3g} of 5, {budget['your_left']:.3g} left" in said(
        scientist, "budget", "show", "flowers"
    )
    assert "spent in total" not in said(scientist, "budget", "show", "flowers")
    assert "spent in total" in said(owner, "budget", "show", "flowers")


def test_statistics_are_printed_and_written(scientist: Run, folder: Path) -> None:
    job = ask(scientist, *COUNT, *PRIVATE, "--wait")
    answers = json.loads(said(scientist, "job", "result", job))["answers"]
    assert abs(answers[0]["value"] - 300) < 100
    assert [key for key, _ in answers[1]["groups"]] == [0, 1, 2]
    said(scientist, "job", "result", job, "-o", "answers.json")
    assert json.loads((folder / "answers.json").read_text())["answers"] == answers


def test_an_exact_job_is_looked_at_approved_and_let_out(owner: Run, scientist: Run) -> None:
    job = ask(scientist, *COUNT)
    wait_for(scientist, job, "waiting")
    assert "waits for the decision of the data owner" in refused(scientist, "job", "result", job)
    assert job in said(owner, "request", "list")
    sheet = said(owner, "request", "show", job)
    for words in (
        "scientist@example.org",
        "a study",
        "answer statistics on flowers",
        "number of records",
        "an exact answer",
    ):
        assert words in sheet
    done = owner("request", "approve", job, stdin="n\n")
    assert done.returncode == 1
    assert "Approve this?" in done.stdout
    wait_for(scientist, job, "waiting")
    said(owner, "request", "approve", job, stdin="y\n")
    wait_for(scientist, job, "held")
    assert "held until the data owner approves the release" in refused(scientist, "job", "result", job)
    assert json.loads(said(owner, "job", "result", job))["answers"][0]["value"] == 300, (
        "who signs it off may look at it"
    )
    assert "released" in said(owner, "request", "approve", job, "--yes")
    assert json.loads(said(scientist, "job", "result", job))["answers"][0]["value"] == 300
    assert "the job is released" in refused(owner, "request", "revoke", job)


def test_a_models_answers_are_looked_at_and_let_out(owner: Run, scientist: Run, folder: Path) -> None:
    job = ask(scientist, "job", "predict", "flowers", "linear.onnx", "--max-records", "20", "--select", "y")
    wait_for(scientist, job, "waiting")
    sheet = said(owner, "request", "show", job)
    for words in (
        "have a model answer for each record",
        "for each of the first 20 records",
        "IT REVEALS SOMETHING ABOUT EACH SINGLE RECORD",
    ):
        assert words in sheet
    said(owner, "request", "approve", job, "--yes")
    wait_for(scientist, job, "held")
    assert "AND IS LARGE ENOUGH TO HOLD THEM" in said(owner, "request", "show", job)
    said(owner, "request", "approve", job, "--yes")
    assert "the predictions are ready" in said(scientist, "job", "result", job)
    said(scientist, "job", "result", job, "-o", "answers.safetensors")
    answers = load_data(folder / "answers.safetensors")["y"]
    np.testing.assert_allclose(answers, logistic_data(300)["x"][:20] @ WEIGHT, rtol=1e-5)


def test_a_held_result_can_be_denied(owner: Run, scientist: Run) -> None:
    job = ask(scientist, *COUNT)
    wait_for(scientist, job, "waiting")
    said(owner, "request", "approve", job, "--yes")
    wait_for(scientist, job, "held")
    assert "denied" in said(owner, "request", "deny", job, "--comment", "too few records")
    assert "too few records" in said(scientist, "job", "show", job)
    assert "it was denied" in refused(scientist, "job", "result", job)
    assert "the job is denied" in refused(owner, "request", "approve", job, "--yes")


def test_a_job_can_be_cancelled_and_then_not_be_approved(owner: Run, scientist: Run) -> None:
    job = ask(scientist, *COUNT)
    wait_for(scientist, job, "waiting")
    assert "cancelled" in said(scientist, "job", "cancel", job)
    assert "the job is cancelled" in refused(owner, "request", "approve", job, "--yes")


def test_nobody_decides_on_their_own_request_and_strangers_see_nothing(
    owner: Run, scientist: Run, folder: Path, url: str
) -> None:
    stranger = user(folder, url, "stranger")
    job = ask(scientist, *COUNT)
    wait_for(scientist, job, "waiting")
    assert "not for you" in refused(scientist, "request", "approve", job, "--yes")
    assert "no job waits for your decision" in said(scientist, "request", "list")
    own = ask(owner, *COUNT)
    wait_for(owner, own, "waiting")
    assert "nobody decides on their own request" in refused(owner, "request", "approve", own, "--yes")
    for command in (
        ["job", "show"],
        ["job", "result"],
        ["job", "cancel"],
        ["request", "approve", "--yes"],
        ["request", "deny"],
    ):
        assert "no job" in refused(stranger, *command, job)
        assert "you can see no job" in refused(stranger, *command, job[:8])
    assert "no job matches" in said(stranger, "job", "list")


def test_a_budget_is_changed_where_it_may_be(owner: Run) -> None:
    output = said(owner, "budget", "set", "flowers", "--epsilon", "12")
    assert "epsilon 12 at delta 0.00001, 5 for each user" in output
    assert "run without a decision" in output
    assert "the budget was opened for delta 0.00001" in refused(owner, "budget", "set", "flowers", "--delta", "1e-3")
    assert json.loads(said(owner, "budget", "show", "flowers", "--json"))["policy"]["epsilon"] == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*COUNT, "--reason", "x", "--epsilon", "1"], "delta is missing"),
        ([*COUNT, "--reason", "x", "--epsilon", "-1", "--delta", "1e-5"], "epsilon"),
        ([*COUNT, "--reason", " "], "reason: describe the purpose"),
        (["job", "submit", "nothing", "-s", "count", "--reason", "x"], "nothing"),
        ([*TRAIN, "--reason", "x", "-b", "x=y", "-b", "y=y"], "port 'x'"),
        ([*TRAIN, "--reason", "x", "-b", "x=z"], "the dataset has no column 'z'; it has: x, y"),
        ([*TRAIN, "--reason", "x", "-p", "lr=99"], "lr"),
        (["budget", "set", "flowers", "--epsilon", "99"], "your role User on domain lacks can_upload_data"),
        (["request", "show", "f" * 32], "no job"),
        (
            ["job", "submit", "flowers", "--plan", "nothing.plan", "--model", "m", "--reason", "x"],
            "there is no plan file",
        ),
        (["job", "predict", "flowers", "nothing.onnx", "--reason", "x"], "there is no model file"),
        (["job", "predict", "flowers", "logistic.plan", "--reason", "x"], "can't be read as an ONNX model"),
        (["job", "predict", "flowers", "linear.onnx", "--reason", "x", "--select", "z"], "the model has no output 'z'"),
        (["job", "predict", "flowers", "linear.onnx", "--reason", "x", "-b", "x=y"], "takes [4] per record"),
    ],
)
def test_mistakes_are_told_in_words(scientist: Run, arguments: list[str], words: str) -> None:
    assert words in refused(scientist, *arguments)
