"""Runs every operator that plans may use on the values that break kernels; prints what it runs, so that a crash has a
name.

A script, because what it looks for is the end of its own process. `test_plan_operators` starts it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import onnxruntime as ort

from pygrid.errors import InvalidPlan
from pygrid.plans.costs import analyse
from pygrid.plans.sessions import OnnxSession
from support.plans.operators import CASES, Case

VALUES: dict[str, list[Any]] = {
    "float32": [np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, 1e-45],
    "int64": [-(2**63), 2**63 - 1, -1, 0, 2**40],
    "int32": [-(2**31), 2**31 - 1, -1, 0],
    "bool": [True, False],
}
ELEMENT = {"float32": 1, "int64": 7, "int32": 6}
ROUNDS = 6


def run(case: Case, dtype: str) -> bool:
    """Run a case with its float inputs made ``dtype``; whether it is one that plans may contain and the runtime has."""
    model, ports = case.build()
    for info in model.graph.input:
        if info.type.tensor_type.elem_type == ELEMENT["float32"]:
            info.type.tensor_type.elem_type = ELEMENT[dtype]
    try:
        analyse(model.graph, name="case", max_n=3)
        session = OnnxSession(model.SerializeToString(), name="case")
    except InvalidPlan:
        return False
    for seed in range(ROUNDS):
        generator = np.random.default_rng(seed)
        feed = {}
        for port in ports:
            kind = dtype if port.dtype == "float32" else port.dtype
            shape = [3 if isinstance(size, str) else size for size in port.shape]
            feed[port.name] = np.asarray(generator.choice(np.array(VALUES[kind], kind), size=shape), kind)
        with contextlib.suppress(InvalidPlan):  # an index out of range, say; what matters is that the process lives
            session.run([info.name for info in model.graph.output], feed)
    return True


if __name__ == "__main__":
    ort.set_default_logger_severity(4)
    for dtype in ELEMENT:
        for case in CASES:
            print(dtype, case, flush=True)
            print("ran" if run(case, dtype) else "not possible", flush=True)
    print("all done")
