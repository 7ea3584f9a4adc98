"""JSON logs are all JSON: records, warnings, unhandled exceptions, and errors of the start.

Should happen: each line is one object, with the reason and its code.
Should not happen: a traceback, a banner or a message in text between them; a setup code in the log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually_blocking

pytestmark = pytest.mark.fresh_processes

FAULTS = """
import logging, threading, warnings
from pygrid.logs import configure_logs
configure_logs(log_format="json")
warnings.warn("careful")
logging.getLogger("pygrid.x").info("phrase", extra={"job_id": "a"})
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError("not handled")
"""


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def start(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pygrid", *arguments]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=180, check=False)


def test_what_nobody_handles_is_an_object() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    warning, phrase, thread, error = objects(done.stderr)
    assert "careful" in warning["event"]
    assert (phrase["event"], phrase["job_id"]) == ("phrase", "a")
    assert (thread["event"], error["event"]) == ("unhandled exception",) * 2
    assert "ZeroDivisionError" in thread["exception"]
    assert "ValueError: not handled" in error["exception"]


@pytest.mark.parametrize("app", ["domain", "network"])
def test_an_error_of_the_start_is_an_object(app: str, tmp_path: Path) -> None:
    done = start(app, "--port", "0", "--host", "0.0.0.0", "--data-dir", str(tmp_path), PYGRID_LOG_FORMAT="json")
    (line,) = objects(done.stderr)
    assert (done.returncode, done.stdout) == (1, "")
    assert (line["event"], line["level"], line["code"]) == ("app not started", "error", "secret_key_missing")
    assert "SECRET_KEY" in line["reason"]


@pytest.mark.slow
def test_a_run_of_a_domain_is_all_objects(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    arguments = ["domain", "--port", "0", "--host", "0.0.0.0", "--port-file", str(port_file), "--log-format", "json"]
    with subprocess.Popen(
        [sys.executable, "-m", "pygrid", *arguments, "--data-dir", str(tmp_path / "data")],
        env={**os.environ, "SECRET_KEY": "s" * 32, "PYGRID_SETUP_CODE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        eventually_blocking(lambda: port_file.exists() or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=180)[0]
    assert process.returncode == 0, printed
    (ready,) = [line for line in objects(printed) if line["event"] == "app ready"]
    assert ready["address"] == f"http://127.0.0.1:{port_file.read_text().strip()}"
    code = Path(ready["setup_code_file"])
    assert code.name == "setup-code"
    assert "setup_code" not in ready
