"""Running a plan phones nobody: no thread, file or socket beside the ones of the run itself.

And none of it needs PyTorch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.plans.handmade import logistic_plan

HERE = Path(__file__).parents[2]


def run_python(code: str, home: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtime_starts_no_thread_and_opens_no_file_or_socket(tmp_path):
    output = run_python(
        """
        import time, psutil, sys
        sys.path.insert(0, ".")
        from support.plans.handmade import logistic_data, logistic_params, logistic_plan
        process = psutil.Process()
        threads, files = process.num_threads(), {f.path for f in process.open_files()}
        from pygrid.plans import Runner
        Runner(logistic_plan()).train(logistic_params(), logistic_data())
        time.sleep(0.3)  # for a thread that starts late
        print(process.num_threads() - threads)
        print({f.path for f in process.open_files()} - files or "no files")
        print(process.net_connections() or "no sockets")
        """,
        tmp_path,
    )
    assert output.split("\n")[:3] == ["0", "no files", "no sockets"]
    assert list(tmp_path.rglob("*")) == []


def test_telemetry_is_off_even_if_the_environment_asks_for_it(tmp_path):
    output = run_python(
        """
        import os
        os.environ["ORT_DISABLE_TELEMETRY"] = "0"
        from pygrid.plans import Runner
        print(os.environ["ORT_DISABLE_TELEMETRY"])
        """,
        tmp_path,
    )
    assert output.strip() == "1"


@pytest.mark.parametrize("module", ["torch", "onnx"])
def test_a_plan_is_read_without_torch_and_without_onnx(tmp_path, module):
    logistic_plan().save(tmp_path / "a.plan")
    output = run_python(
        f"""
        import sys
        sys.modules[{module!r}] = None
        import pygrid, pygrid.plans
        plan = pygrid.plans.Plan.load({str(tmp_path / "a.plan")!r})
        from pygrid.plans import Runner
        import numpy as np
        params = {{"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(3, np.float32)}}
        data = {{"x": np.zeros((2, 4), np.float32), "y": np.zeros(2, np.int64)}}
        print(Runner(plan).train(params, data).num_updates)
        """,
        tmp_path,
    )
    assert output.strip() == "1"


def test_the_gate_needs_neither_torch_nor_the_runtime(tmp_path):
    logistic_plan().save(tmp_path / "a.plan")
    output = run_python(
        f"""
        import sys
        sys.modules["torch"] = sys.modules["onnxruntime"] = None
        from pygrid.plans import Plan, check
        print(check(Plan.load({str(tmp_path / "a.plan")!r}).data).name)
        """,
        tmp_path,
    )
    assert output.strip() == "logistic"


def test_reading_a_plan_loads_neither_onnx_nor_the_runtime(tmp_path):
    logistic_plan().save(tmp_path / "a.plan")
    output = run_python(
        f"""
        import sys
        from pygrid.plans import Plan
        Plan.load({str(tmp_path / "a.plan")!r})
        print(sorted(name for name in ("torch", "onnx", "onnxruntime", "numpy") if name in sys.modules))
        """,
        tmp_path,
    )
    assert output.strip() == "[]"
