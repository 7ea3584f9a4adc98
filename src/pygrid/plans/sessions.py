"""ONNX Runtime, configured the one way that pygrid uses it: quiet, from bytes, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidPlan, Unavailable
from pygrid.plans.text import one_line

# ONNX Runtime reads this at its first import. A privacy product sends no telemetry.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

Array = npt.NDArray[np.generic]

ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(value for value in vars(_state).values() if isinstance(value, type) and issubclass(value, Exception)),
)
"""Exceptions of ONNX Runtime when it refuses a graph, or when a graph fails on its inputs."""
_FATAL = 4
"""The lowest severity that ONNX Runtime prints; errors are raised instead."""


def quiet_session(num_threads: int = 1) -> Any:
    """Session options: operators run one after the other, and nothing is printed on the terminal."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL
    # A thread that spins while idle takes time from other processes and drains the battery of a device.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def quiet_run() -> Any:
    """Options of one run; setting ``terminate`` on them ends the run before its next operator."""
    options = ort.RunOptions()
    options.log_severity_level = _FATAL
    return options


def load(graph: bytes, options: Any, *, name: str) -> Any:
    """An ONNX Runtime session for a graph.

    Args:
        graph: ONNX bytes, never a path, so that no reference to another file can be followed.
    Raises:
        InvalidPlan: ONNX Runtime refuses the graph (``plan_load_failed``).
    """
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise InvalidPlan(
            f"ONNX Runtime cannot load graph {name!r}: {one_line(str(error))}", code=codes.PLAN_LOAD_FAILED, graph=name
        ) from error


def run_failed(name: str, error: Exception) -> InvalidPlan:
    """The error for a run that failed on its inputs (``plan_run_failed``)."""
    return InvalidPlan(
        f"graph {name!r} failed while it ran: {one_line(str(error))}", code=codes.PLAN_RUN_FAILED, graph=name
    )


class OnnxSession:
    """One loaded graph. Runs are serial; `terminate` may be called from another thread."""

    def __init__(self, graph: bytes, *, name: str, num_threads: int = 1, keeps_memory: bool = True) -> None:
        """Load a graph.

        Args:
            graph: ONNX bytes, never a path, so that no reference to another file can be followed.
            name: name of the graph, for error messages.
            num_threads: threads inside an operator.
            keeps_memory: whether memory is kept for later operators and runs, which is faster, and takes more of it.
        Raises:
            InvalidPlan: ONNX Runtime refuses the graph (``plan_load_failed``).
        """
        self._name = name
        self._run_options = quiet_run()
        self._terminated = False
        options = quiet_session(num_threads)
        options.enable_cpu_mem_arena = options.enable_mem_pattern = keeps_memory
        self._session = load(graph, options, name=name)

    def run(self, outputs: Sequence[str], feed: Mapping[str, Array]) -> list[Any]:
        """The named outputs, as new arrays.

        Raises:
            InvalidPlan: the graph failed on these inputs (``plan_run_failed``).
            Unavailable: memory ran out (``out_of_memory``), or `terminate` was called (``run_cancelled``).
        """
        try:
            return list(self._session.run(outputs, feed, self._run_options))
        except MemoryError as error:
            raise Unavailable(
                f"graph {self._name!r} needs more memory than is free", code=codes.OUT_OF_MEMORY
            ) from error
        except ORT_ERRORS as error:
            if self._terminated:
                raise Unavailable("the run was cancelled", code=codes.RUN_CANCELLED) from error
            raise run_failed(self._name, error) from error

    def terminate(self) -> None:
        """End the current run before its next operator and refuse later runs. A started operator runs to its end."""
        self._terminated = True
        self._run_options.terminate = True
