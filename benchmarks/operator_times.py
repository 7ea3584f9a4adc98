"""How much the time of an operator depends on values: each operator on 16,384 numbers, constant, random and mixed.

    python benchmarks/operator_times.py [--repeats 10]

Claim: with denormal numbers as zero, an operator that private jobs may use takes at most 3 times as long for any values
as for any others (`pygrid.compute.runtime.schedule.VARIATION`). The operators of the second table vary by more, and
take at most 60 ns for an operation (`pygrid.compute.runtime.contributions`), which is planned for each of theirs.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from pygrid.compute.runtime.contributions import SLOW_S
from pygrid.compute.runtime.denormals import denormals_as_zero
from pygrid.compute.runtime.schedule import VARIATION
from pygrid.plans.costs import analyse
from pygrid.plans.sessions import OnnxSession

SIZE, SIDE = 16_384, 128
_random = np.random.default_rng(0)
CONSTANTS = (1.0, 0.0, 1e-40, 1.3e-38, -1.7, 1e6, 3.4e38, -1e30, 88.0, -100.0, np.inf, np.nan)
FLOATS: dict[str, Any] = {
    **{str(value): np.full(SIZE, value) for value in CONSTANTS},
    "random": _random.standard_normal(SIZE),
    "of any size": 10 ** _random.uniform(-37, 38, SIZE) * _random.choice([-1, 1], SIZE),
    "mixed": _random.choice(CONSTANTS, SIZE),
    "rising": np.arange(SIZE),
    "falling": -np.arange(SIZE),
    "0 or 1": _random.integers(0, 2, SIZE),
}
INTS: dict[str, Any] = {
    **{str(value): np.full(SIZE, value) for value in (0, 1, -1, 2**62, -(2**63))},
    "random": _random.integers(-(2**62), 2**62, SIZE),
    "rising": np.arange(SIZE),
    "0 or 1": _random.integers(0, 2, SIZE),
}
PLACES: dict[str, Any] = {
    "0": np.zeros(SIZE),
    "rising": np.arange(SIZE),
    "random": _random.permutation(SIZE),
    "far apart": (np.arange(SIZE) * 4099) % SIZE,
}
UNARY = (
    *("Abs", "Elu", "Erf", "Exp", "Floor", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid", "Sign"),
    *("Softmax", "LogSoftmax", "Softplus", "Sqrt", "Tanh"),
    *("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSumSquare", "ArgMax", "ArgMin"),
)
BINARY = ("Add", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Sub", "MatMul")
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
IMAGE, POWERS = (1, 1, SIDE, SIDE), (2.0, 3.0, 0.5, -2.3)
Case = tuple[str, list[tuple[int, tuple[int, ...], dict[str, Any]]], list[Any], dict[str, Any]]
"""Operator; dtype, shape and values of each input; constants after the inputs; attributes."""


def _floats(*shape: int) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    return FLOAT, shape or (SIZE,), FLOATS


def _integers() -> tuple[int, tuple[int, ...], dict[str, Any]]:
    return INT, (SIZE,), INTS


CASES: list[Case] = [
    *((name, [_floats()], [], {}) for name in UNARY),
    *((name, [_floats(*((SIDE, SIDE) if name == "MatMul" else ()))] * 2, [], {}) for name in BINARY),
    *((name, [_integers()], [], {}) for name in ("Abs", "ArgMax", "ReduceMax", "ReduceSum", "Sign")),
    ("Div", [_integers()], [np.array(3)], {}),
    ("Cast", [_floats()], [], {"to": INT}),
    ("Clip", [_floats()], [np.float32(-1), np.float32(1)], {}),
    ("MaxPool", [_floats(*IMAGE)], [], {"kernel_shape": [3, 3]}),
    ("AveragePool", [_floats(*IMAGE)], [], {"kernel_shape": [3, 3]}),
    ("Conv", [_floats(*IMAGE)], [np.ones((4, 1, 3, 3), np.float32)], {}),
    ("GatherElements", [_floats(), (INT, (SIZE,), PLACES)], [], {}),
    ("ScatterElements", [_floats(), (INT, (SIZE,), PLACES)], [np.ones(SIZE, np.float32)], {"reduction": "add"}),
    *(("Pow", [_floats()], [np.float32(power)], {}) for power in POWERS),
    ("Pow", [_floats(), (FLOAT, (), {str(power): np.float32(power) for power in POWERS})], [], {}),
    ("Pow", [_floats(), _floats()], [], {}),
    ("Pow", [_integers()] * 2, [], {}),
    *(("Mod", [_integers()], [np.array(number)], {}) for number in (2, 7)),
    ("Sin", [_floats()], [], {}),
    ("Cos", [_floats()], [], {}),
    ("MaxPool", [_floats(*IMAGE)], [], {"kernel_shape": [3, 3], "dilations": [2, 2]}),
    ("MaxPool", [_floats(*IMAGE)], [], {"kernel_shape": [3, 3], "places": True}),
]


def model_of(case: Case) -> ModelProto:
    operator, inputs, constants, attributes = case
    attributes = dict(attributes)
    infos = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i, (kind, shape, _) in enumerate(inputs)]
    more = [numpy_helper.from_array(np.asarray(value), f"c{i}") for i, value in enumerate(constants)]
    outputs = ["y", "places"] if attributes.pop("places", False) else ["y"]
    names = [one.name for one in (*infos, *more)]
    node = helper.make_node(operator, names, outputs, **attributes)
    whole = helper.make_graph([node], operator, infos, [helper.ValueInfoProto(name=outputs[-1])], initializer=more)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def measure(case: Case, repeats: int) -> tuple[float, float, str]:
    """The shortest and the longest time of a case, and the values of the longest; the best of each counts."""
    model = model_of(case)
    session, output = OnnxSession(model.SerializeToString(), name=case[0]), model.graph.output[0].name
    feeds: dict[str, dict[str, Any]] = {"": {}}
    for number, (kind, shape, values) in enumerate(case[1]):
        dtype = np.float32 if kind == FLOAT else np.int64
        with np.errstate(over="ignore", invalid="ignore"):
            arrays = {name: np.asarray(value).astype(dtype).reshape(shape) for name, value in values.items()}
        feeds = {f"{a}, {b}".strip(", "): {**f, f"x{number}": v} for a, f in feeds.items() for b, v in arrays.items()}
    best = dict.fromkeys(feeds, float("inf"))
    with denormals_as_zero():
        for _ in range(repeats):
            for name, feed in feeds.items():
                started = time.perf_counter()
                session.run([output], feed)
                best[name] = min(best[name], time.perf_counter() - started)
    slowest = max(best, key=lambda name: best[name])
    return min(best.values()), best[slowest], slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="turns of which the best counts")
    repeats = parser.parse_args().repeats
    missed = False
    steady, slow = [], []
    for case in CASES:
        short_s, long_s, values = measure(case, repeats)
        num_slow = analyse(model_of(case).graph, name=case[0], max_n=1).slow_operations(1)
        constants = ", ".join(f"{value:g}" for value in case[2] if np.ndim(value) == 0)
        label = f"{case[0]} {constants}{' int' if case[1][0][0] == INT else ''}"
        line = f"{label:28}{long_s / short_s:6.1f}x  {values:32}"
        if num_slow:
            slow.append(f"{line}{1e9 * long_s / num_slow:8.1f} ns for an operation")
            missed |= long_s / num_slow > SLOW_S
        else:
            steady.append(line)
            missed |= long_s / short_s > VARIATION
    print("\n".join(["Steady:", *steady, "", "Planned with their longest time:", *slow]))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
