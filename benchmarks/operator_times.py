"""How much the time of an operator depends on values: each operator on 4,096 numbers of one kind, against ones.

    python benchmarks/operator_times.py [--repeats 40]

Claim: with denormal numbers as zero, no operator that private jobs may use takes more than 3 times as long for any
values as for ones (`pygrid.compute.runtime.schedule.VARIATION`). The last column is without that setting.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from pygrid.compute.runtime.denormals import denormals_as_zero
from pygrid.compute.runtime.schedule import VARIATION
from pygrid.plans.sessions import OnnxSession

SIZE, SIDE = 4096, 64
VALUES = {
    "one": 1.0,
    "zero": 0.0,
    "denormal": 1e-40,
    "smallest": 1.3e-38,
    "negative": -1.7,
    "large": 1e6,
    "huge": 3.4e38,
    "negative huge": -1e30,
    "88": 88.0,
    "-100": -100.0,
    "infinite": np.inf,
    "NaN": np.nan,
}
UNARY = (
    *(
        "Abs",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "LeakyRelu",
        "Log",
        "Neg",
        "Reciprocal",
        "Relu",
        "Sigmoid",
        "Sign",
        "Sin",
    ),
    *("Softmax", "LogSoftmax", "Softplus", "Sqrt", "Tanh", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceSumSquare"),
)
BINARY = ("Add", "Div", "Equal", "Max", "Min", "Mul", "Pow", "Sub", "MatMul")


def session(operator: str, num_inputs: int) -> OnnxSession:
    shape = [SIDE, SIDE] if operator == "MatMul" else [SIZE]
    names = ["a", "b"][:num_inputs]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    kind = TensorProto.BOOL if operator == "Equal" else TensorProto.FLOAT
    output = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph([helper.make_node(operator, names, ["y"])], operator, inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return OnnxSession(model.SerializeToString(), name=operator)


def measure(operator: str, num_inputs: int, repeats: int) -> tuple[float, str]:
    """The largest ratio to the time for ones, and the values that have it.

    All values take turns; the best of each counts.
    """
    runner = session(operator, num_inputs)
    shape = (SIDE, SIDE) if operator == "MatMul" else (SIZE,)
    arrays = {name: np.full(shape, value, np.float32) for name, value in VALUES.items()}
    feeds: dict[tuple[str, ...], dict[str, Any]] = {
        names: {port: arrays[name] for port, name in zip(("a", "b"), names, strict=False)}
        for names in itertools.product(VALUES, repeat=num_inputs)
    }
    best = dict.fromkeys(feeds, float("inf"))
    for _ in range(repeats):
        for names, feed in feeds.items():
            started = time.perf_counter()
            runner.run(["y"], feed)
            best[names] = min(best[names], time.perf_counter() - started)
    slowest = max(best, key=lambda names: best[names])
    return best[slowest] / best[("one",) * num_inputs], " and ".join(slowest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="turns of which the best counts")
    repeats = parser.parse_args().repeats
    missed = False
    print(f"{'operator':16}{'ratio':>8}  {'values':32}{'as they are':>12}")
    for operator in (*UNARY, *BINARY):
        number = 2 if operator in BINARY else 1
        with denormals_as_zero():
            ratio, values = measure(operator, number, repeats)
        plain, _ = measure(operator, number, max(3, repeats // 8))
        missed |= ratio > VARIATION
        print(f"{operator:16}{ratio:7.1f}x  {values:32}{plain:11.1f}x")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
