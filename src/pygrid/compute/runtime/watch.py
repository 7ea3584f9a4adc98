"""Measures evaluations of a plan, and ends those that take too long."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from pygrid.errors import InvalidPlan
from pygrid.plans.costs import Analysis
from pygrid.plans.exact import ExactSession, flat_outputs
from pygrid.plans.manifest import Port
from pygrid.plans.operators.values import IR_VERSIONS, OPSET
from pygrid.plans.sessions import quiet_run

_TRIAL_S, _MIN_TRIALS, _MAX_TRIALS = 0.05, 3, 25
_WATCH_S = 0.002


def measure(call: Callable[[], object]) -> float:
    """The median CPU seconds of a call, after one call that is not counted."""
    call()
    times: list[float] = []
    while len(times) < _MIN_TRIALS or (sum(times) < _TRIAL_S and len(times) < _MAX_TRIALS):
        began = time.thread_time_ns()
        call()
        times.append((time.thread_time_ns() - began) / 1e9)
    return statistics.median(times)


def estimate_s(analysis: Analysis, num_rows: int) -> float:
    """Seconds that suffice for a call of a graph that cannot be measured: 20 us for a node, 20 ns for an operation."""
    return 2e-5 * len(analysis.steps) + 2e-8 * analysis.flops(num_rows)


class Watch:
    """Runs evaluations, and ends those that take longer than a limit. A context manager: within it, a thread watches.

    Args:
        limit_s: CPU seconds of the thread that runs; infinite: nothing is ended.
    """

    def __init__(self, limit_s: float = math.inf) -> None:
        self._limit_s = limit_s
        self._runner = threading.get_ident()
        self._options = quiet_run()
        self._lock = threading.Lock()
        self._began: float | None = None
        """CPU time of the runner's thread when its evaluation began; None: none is under way. Under the lock it is
        looked at and taken away, so that the evaluation that takes too long is ended, and never the one after it."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        if math.isfinite(self._limit_s):
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def run(self, session: ExactSession, num_rows: int) -> bool:
        """Whether the session computed its output, within the limit."""
        began = self._began = time.thread_time()
        try:
            session.run(num_rows, self._options)
        except InvalidPlan:
            return False
        finally:
            with self._lock:
                self._began = None
                if self._options.terminate:
                    self._options = quiet_run()
        return time.thread_time() - began <= self._limit_s

    def timer(self) -> Callable[[], bool]:
        """Whether the limit has passed since this call, for an evaluation that is not one run of a session."""
        end = time.thread_time() + self._limit_s
        return lambda: time.thread_time() > end

    def _look(self) -> None:
        clock = time.pthread_getcpuclockid(self._runner)
        while not self._stop.wait(max(_WATCH_S, self._limit_s / 2)):
            with self._lock:
                if self._began is not None and time.clock_gettime(clock) - self._began > self._limit_s:
                    self._options.terminate = True


def failure_s() -> float:
    """CPU seconds of an evaluation that fails at once: mostly the error of ONNX Runtime, which is the same for all."""
    place, value = Port("place", "int64", (1,)), Port("value", "float32", (1,))
    node = helper.make_node("Gather", ["table", place.name], [value.name])
    table = numpy_helper.from_array(np.zeros(1, np.float32), "table")
    ends = (
        [helper.make_tensor_value_info(place.name, TensorProto.INT64, [1])],
        [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [1])],
    )
    graph = helper.make_graph([node], "failure", *ends, initializer=[table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSIONS[-1])
    _, buffers = flat_outputs([value])
    session = ExactSession(model.SerializeToString(), name="failure", inputs=[place], outputs=buffers)
    session.inputs[place.name][...] = 1
    watch = Watch()
    assert not watch.run(session, 1)
    return measure(lambda: watch.run(session, 1))
