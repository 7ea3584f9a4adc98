"""Plans: portable, checkable programs of array operations. The format, the gate and the runner.

`Plan` reads and writes plan files. `check` and `check_in_child` are the gate. `Runner` runs a plan on ONNX Runtime.
Only `pygrid.plans.authoring` needs PyTorch. Names load on first use, so a program that only stores plans imports
neither onnx nor ONNX Runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pygrid.plans.archive import MAX_PLAN_BYTES, Plan, build_archive
from pygrid.plans.manifest import DataPort, Graph, Hyper, Manifest, NoisePort, Port, TestVector

if TYPE_CHECKING:
    from pygrid.plans.averaging import AveragingRunner
    from pygrid.plans.averaging_child import DiffRef, run_averaging_async, run_averaging_in_child
    from pygrid.plans.gate import GateLimits, GateReport, check, check_async, check_in_child
    from pygrid.plans.inference import export_onnx
    from pygrid.plans.runner import Gradients, Runner, TrainResult
    from pygrid.plans.selftest import run_selftest, selftest_inputs, selftest_loss

_LAZY = {
    "AveragingRunner": "averaging",
    "DiffRef": "averaging_child",
    "run_averaging_async": "averaging_child",
    "run_averaging_in_child": "averaging_child",
    "GateLimits": "gate",
    "GateReport": "gate",
    "check": "gate",
    "check_async": "gate",
    "check_in_child": "gate",
    "export_onnx": "inference",
    "Gradients": "runner",
    "Runner": "runner",
    "TrainResult": "runner",
    "run_selftest": "selftest",
    "selftest_inputs": "selftest",
    "selftest_loss": "selftest",
}

__all__ = [
    "MAX_PLAN_BYTES",
    "AveragingRunner",
    "DataPort",
    "DiffRef",
    "GateLimits",
    "GateReport",
    "Gradients",
    "Graph",
    "Hyper",
    "Manifest",
    "NoisePort",
    "Plan",
    "Port",
    "Runner",
    "TestVector",
    "TrainResult",
    "build_archive",
    "check",
    "check_async",
    "check_in_child",
    "export_onnx",
    "run_averaging_async",
    "run_averaging_in_child",
    "run_selftest",
    "selftest_inputs",
    "selftest_loss",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(f"pygrid.plans.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'pygrid.plans' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
