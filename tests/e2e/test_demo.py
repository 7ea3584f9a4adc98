"""The demo and the examples, run as a user runs them.

Should happen: both models learn, the files are there, every process is ended, also after Ctrl-C and after a failure; a
job beyond the budget is refused, an exact one waits for its owner.
Should not: success reported for a model that did not learn; a folder emptied that the demo did not make.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

import digits
import digits_cnn
import digits_demo
from local_processes import LocalProcesses, ProcessFailed
from pygrid.edge import load_data
from support.eventually import eventually_blocking

DEMO = Path(digits_demo.__file__)
TIMEOUT_S = 180


def demo(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO), "--output", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


def processes_of(output: Path) -> list[str]:
    """Command lines of running processes that work in the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        text = " ".join(process.info["cmdline"] or [])
        if str(output) in text:
            found.append(text)
    return found


@pytest.mark.slow
def test_ten_devices_learn_to_read_digits(tmp_path):
    output = tmp_path / "out"
    done = demo(output)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^cycle +(\d+)  devices (\d+)  loss ([\d.]+)  accuracy ([\d.]+)%", done.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(1, 21))
    assert {row[1] for row in rows} == {"10"}
    assert float(rows[-1][2]) < float(rows[0][2])
    assert float(rows[-1][3]) >= 93.0
    points = ET.parse(output / "learning-curve.svg").getroot().findall("{http://www.w3.org/2000/svg}circle")
    assert len(points) == 21
    assert (
        load_data(output / "model.safetensors").keys() == load_data(DEMO.parent / "plans" / "digits.safetensors").keys()
    )
    assert processes_of(output) == []
    check_second_part(done.stdout)
    check_third_part(done.stdout)


def check_second_part(output: str) -> None:
    """What a data owner and a data scientist did, in order; and that the noise cost little, and the budget held."""
    for said in (
        "owner      uploads 455 records as 'cells'",
        "searches for 'malignant': cells (455 records)",
        "asks to see records: refused",
        "tries the plan on 100 mock records: it runs",
        "asks to train with epsilon 5:",
        "charged: epsilon 4.40 of 6",
        "asks for the same again: refused (budget_exhausted)",
        "of the requester's part of the privacy budget",
        "asks for the same without noise: waits for the owner",
        "privacy       none: an exact answer, which a person signs off",
        "the result is held:",
    ):
        assert said in output, said
        output = output.partition(said)[2]
    accuracies = re.search(r"([\d.]+)% with epsilon 5, ([\d.]+)% without noise, ([\d.]+)% by guessing", output)
    assert accuracies is not None
    private, exact, majority = map(float, accuracies.groups())
    # Two seeds gave 94.7% and 96.5% with noise, 94.7% and 99.1% without.
    assert exact >= 90.0
    assert private >= 85.0 > majority


def check_third_part(output: str) -> None:
    """What three owners and a scientist did, in order; and that they learned together what none could alone."""
    for said in (
        "north      joins the Network, reached directly",
        "east       joins the Network, reached only through the relay",
        "scientist  searches the Network:",
        "asks all three to train together for 20 cycles with epsilon 8 each",
        "20  completed",
        "was charged epsilon 7.0",
        "of 10, once, for all cycles",
    ):
        assert said in output, said
        output = output.partition(said)[2]
    together = re.search(r"([\d.]+)% together, with noise", output)
    alone = re.search(r"north ([\d.]+)%, south ([\d.]+)%, east ([\d.]+)%", output)
    assert together is not None
    assert alone is not None
    # Seed 0 gave 83% together; each alone knows four digits of ten, so it can't read more than some 40%.
    assert float(together[1]) >= 75.0
    assert max(map(float, alone.groups())) <= 45.0


@pytest.mark.slow
def test_a_model_that_learned_too_little_is_a_failure(tmp_path):
    done = demo(tmp_path / "out", "--devices", "2", "--cycles", "1")
    assert done.returncode == 1
    assert re.search(r"the model reached \d+\.\d% .* more cycles help: --cycles 2", done.stderr)
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_the_records_alone_and_the_link_to_the_console(tmp_path):
    """`webbrowser` runs the program in BROWSER; this one writes down where it should go."""
    opened, program = tmp_path / "opened", tmp_path / "browser.sh"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    program.chmod(0o755)
    command = [
        sys.executable,
        str(DEMO),
        "--output",
        str(tmp_path / "out"),
        "--only",
        "records",
        "--seed",
        "1",
        "--open",
    ]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
        env={**os.environ, "BROWSER": f"{program} %s"},
    ) as running:
        try:
            eventually_blocking(opened.exists, TIMEOUT_S)
            link = opened.read_text().strip()
            with httpx.Client(headers={"Sec-Fetch-Site": "same-origin"}) as tab:
                shown, entered = tab.get(link), tab.post(link)
        finally:
            running.send_signal(signal.SIGINT)
            text, errors = running.communicate(timeout=180)
    assert running.returncode == 0, errors
    check_second_part(text)
    assert "cycle" not in text
    assert "owner@example.org" in shown.text
    assert entered.status_code == 303
    (password,) = re.findall(r"password: (\S+)", text)
    assert password not in link
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_ends_every_process(tmp_path):
    command = [sys.executable, str(DEMO), "--output", str(tmp_path / "out"), "--devices", "2", "--cycles", "1000"]
    # A shell may have the tests ignore Ctrl-C, as all that it runs in the background, and the demo would inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as running:
        assert running.stdout is not None
        for text in running.stdout:
            if text.startswith("cycle   2"):
                break
        assert len(processes_of(tmp_path)) >= 4
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=180)
    assert running.returncode == 130
    assert "stopped; all processes are ended" in errors
    assert processes_of(tmp_path) == []


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "is not empty and was not made by this demo" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("options", [["--devices", "0"], ["--devices", "36"], ["--cycles", "0"], ["--seed", "-1"]])
def test_options_out_of_range_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        digits_demo.parse(options)
    assert "must be" in capsys.readouterr().err


def test_a_process_that_fails_is_reported_with_its_log(tmp_path):
    with LocalProcesses(tmp_path) as processes:
        processes.start("device-1", ["no-such-command"])
        with pytest.raises(ProcessFailed, match=r"(?s)device-1 ended with exit code \d+.*no-such-command"):
            processes.wait("device-1", timeout_s=180)


@pytest.mark.slow
def test_the_example_with_threads_learns(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with LocalProcesses(tmp_path / "logs") as processes:
        assert digits.main(processes.start_domain(tmp_path / "domain")) > 0.9


@pytest.mark.slow
def test_the_example_with_a_convolutional_network_learns(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert digits_cnn.main() > 0.9
