"""For each operator of plans: a unit's result has the same bits, whatever was computed before and in whichever session.

One unit among random company, among extreme values and failures, in sessions whose buffers lie elsewhere: equal bytes.
This looks for violations of the assumption of `pygrid.plans.exact`; it proves nothing.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pygrid.compute.local import _ENVIRONMENT
from pygrid.compute.runtime.denormals import denormals_as_zero, may_flush
from pygrid.errors import InvalidPlan
from pygrid.plans import Plan, Port, selftest_inputs
from pygrid.plans.costs import analyse
from pygrid.plans.exact import ExactSession, flat_outputs
from pygrid.plans.operators import OPERATORS
from pygrid.plans.sizes import at
from support.plans.handmade import GraphBuilder
from support.plans.random_programs import INPUTS, PROFILE, feed, programs

VECTORS = Path(__file__).parents[3] / "vectors" / "plans"

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 67, 255, 256, 257)
EXTREMES = np.array([0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, np.nan, np.inf, -np.inf, 1.0], np.float32)
Build = Callable[[GraphBuilder, int], str]


def op(name: str, *constants: Any, **attributes: Any) -> Build:
    """An operator on ``x`` of shape ``[1, k]``, and on constants."""
    return lambda g, _: g.op(name, "x", *[g.const(one) for one in constants], **attributes)


def binary(name: str, **attributes: Any) -> Build:
    return lambda g, _: g.op(name, "x", g.op("Neg", "x"), **attributes)


def compare(name: str) -> Build:
    return lambda g, _: g.op("Cast", g.op(name, "x", g.const(np.float32(0.5))), to=FLOAT)


def reduce(name: str) -> Build:
    return lambda g, _: g.op(name, "x", g.ints(1), keepdims=1)


def image(name: str, *weights: int, deep: bool = False, **attributes: Any) -> Build:
    """An operator on ``x`` as one row of an image ``[1, 1, 3, k]``, or of a deep one ``[1, 1, 3, 2, k]``."""

    def build(g: GraphBuilder, k: int) -> str:
        row, times = ((1, 1, 1, 1, k), (1, 1, 3, 2, 1)) if deep else ((1, 1, 1, k), (1, 1, 3, 1))
        tall = g.op("Tile", g.op("Reshape", "x", g.ints(*row)), g.ints(*times))
        more = (
            [g.const(np.linspace(-1, 1, int(np.prod(weights)), dtype=np.float32).reshape(weights))] if weights else []
        )
        return g.op(name, tall, *more, **attributes)

    return build


def logic(name: str) -> Build:
    def build(g: GraphBuilder, _: int) -> str:
        low, high = g.op("Greater", "x", g.const(np.float32(-1))), g.op("Less", "x", g.const(np.float32(1)))
        return g.op("Cast", g.op(name, low, high) if name != "Not" else g.op(name, low), to=FLOAT)

    return build


def index(g: GraphBuilder, k: int) -> str:
    """Indices of ``0..k-1`` that depend on ``x``; beyond them, for values that are not finite."""
    return g.op("Cast", g.op("Mul", g.op("Sigmoid", "x"), g.const(np.float32(k - 0.5))), to=INT)


UNARY = (
    *(
        "Abs",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Identity",
        "LeakyRelu",
        "Log",
        "Neg",
        "Reciprocal",
        "Relu",
        "Sigmoid",
    ),
    *("Sign", "Sin", "Softplus", "Sqrt", "Tanh"),
)
CASES: dict[str, Build] = {
    **{name: op(name) for name in UNARY},
    **{name: binary(name) for name in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum")},
    **{name: compare(name) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{name: logic(name) for name in ("And", "Or", "Not")},
    **{
        name: reduce(name)
        for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare")
    },
    "Softmax": op("Softmax", axis=1),
    "LogSoftmax": op("LogSoftmax", axis=1),
    "Clip": op("Clip", np.float32(-0.5), np.float32(1.5)),
    "Cast": lambda g, _: g.op("Cast", g.op("Cast", "x", to=INT), to=FLOAT),
    "Mod": lambda g, k: g.op("Cast", g.op("Mod", index(g, k), g.const(np.array(3, np.int64))), to=FLOAT),
    "Where": lambda g, _: g.op("Where", g.op("Greater", "x", g.const(np.float32(0))), "x", g.const(np.float32(2))),
    "ArgMax": lambda g, _: g.op("Cast", g.op("ArgMax", "x", axis=1, keepdims=1), to=FLOAT),
    "ArgMin": lambda g, _: g.op("Cast", g.op("ArgMin", "x", axis=1, keepdims=1), to=FLOAT),
    "Gather": lambda g, k: g.op("Gather", g.const(np.linspace(-3, 3, k, dtype=np.float32)), index(g, k)),
    "GatherElements": lambda g, k: g.op("GatherElements", "x", index(g, k), axis=1),
    "ScatterElements": lambda g, k: g.op(
        "ScatterElements", "x", index(g, k), g.op("Neg", "x"), axis=1, reduction="add"
    ),
    "MatMul": lambda g, k: g.op("MatMul", "x", g.const(np.linspace(-1, 1, 13 * k, dtype=np.float32).reshape(k, 13))),
    "Gemm": lambda g, k: g.op(
        "Gemm", "x", g.const(np.linspace(-1, 1, 13 * k, dtype=np.float32).reshape(13, k)), transB=1
    ),
    "Conv": image("Conv", 4, 1, 3, 1),
    "ConvTranspose": image("ConvTranspose", 1, 4, 3, 2),
    "AveragePool": image("AveragePool", kernel_shape=[3, 1]),
    "MaxPool": image("MaxPool", kernel_shape=[2, 1]),
    "GlobalAveragePool": image("GlobalAveragePool"),
    "Conv, deep": image("Conv", 4, 1, 3, 2, 1, deep=True),
    "ConvTranspose, deep": image("ConvTranspose", 1, 4, 3, 2, 2, deep=True),
    "MaxPool, deep": image("MaxPool", deep=True, kernel_shape=[2, 2, 1], pads=[0, 0, 0, 1, 1, 0]),
    "AveragePool, padded": image("AveragePool", kernel_shape=[3, 1], pads=[1, 0, 2, 0], count_include_pad=1),
    "AveragePool, deep": image("AveragePool", deep=True, kernel_shape=[3, 2, 1]),
    "Concat": lambda g, _: g.op("Concat", "x", g.op("Neg", "x"), axis=1),
    "Constant": lambda g, _: g.op("Add", "x", g.op("Constant", value_float=1.5)),
    "ConstantOfShape": lambda g, k: g.op("Add", "x", g.op("ConstantOfShape", g.ints(1, k))),
    "Expand": lambda g, k: g.op("Expand", "x", g.ints(3, k)),
    "Pad": lambda g, _: g.op("Pad", "x", g.ints(0, 1, 0, 2)),
    "Range": lambda g, k: g.op("Mul", "x", g.op("Range", *[g.const(np.float32(v)) for v in (0, k, 1)])),
    "Reshape": lambda g, k: g.op("Reshape", "x", g.ints(k, 1)),
    "Shape": lambda g, _: g.op("Mul", "x", g.op("Gather", g.op("Cast", g.op("Shape", "x"), to=FLOAT), g.ints(1))),
    "Size": lambda g, _: g.op("Mul", "x", g.op("Cast", g.op("Size", "x"), to=FLOAT)),
    "Slice": lambda g, _: g.op("Slice", "x", g.ints(0), g.ints(1), g.ints(1)),
    "Slice, backwards": lambda g, _: g.op("Slice", "x", g.ints(-1), g.ints(-(2**62)), g.ints(1), g.ints(-1)),
    "Split": lambda g, k: g.op("Split", "x", g.ints(k), axis=1),
    "Squeeze": lambda g, _: g.op("Squeeze", "x", g.ints(0)),
    "Tile": lambda g, _: g.op("Tile", "x", g.ints(2, 3)),
    "Transpose": op("Transpose", perm=[1, 0]),
    "Trilu": lambda g, _: g.op("Trilu", g.op("Tile", "x", g.ints(3, 1))),
    "Unsqueeze": lambda g, _: g.op("Unsqueeze", "x", g.ints(0)),
}


def test_every_operator_has_a_case() -> None:
    assert {name.partition(",")[0] for name in CASES} == set(OPERATORS)


def session_for(case: str, k: int) -> tuple[ExactSession, Any]:
    """A session that computes a case on ``x`` of shape ``[1, k]``; its output."""
    g = GraphBuilder()
    g.op("Reshape", g.op("Add", CASES[case](g, k), g.const(np.float32(0.125))), g.ints(-1), out="y")
    model = g.model((Port("x", "float32", (1, k)),), (Port("y", "float32", ("n",)),))
    probe = Probe(model.SerializeToString(), k)
    output, buffers = flat_outputs([Port("y", "float32", (probe.size,))])
    inputs = [Port("x", "float32", (1, k))]
    return ExactSession(model.SerializeToString(), name=case, inputs=inputs, outputs=buffers), output


class Probe:
    """How many numbers a graph gives."""

    def __init__(self, graph: bytes, k: int) -> None:
        from pygrid.plans.sessions import OnnxSession

        self.size = OnnxSession(graph, name="probe").run(["y"], {"x": np.ones((1, k), np.float32)})[0].size


def company(k: int) -> Iterator[Any]:
    """Other units: random, extreme, and of magnitudes for which indices are out of range."""
    rng = np.random.default_rng(k)
    for scale in (1.0, 1e-3, 1e6):
        yield (scale * rng.standard_normal((1, k))).astype(np.float32)
    for start in range(len(EXTREMES)):
        yield np.resize(np.roll(EXTREMES, start), (1, k))


def bits_of(session: ExactSession, output: Any, unit: Any) -> bytes | None:
    """The bytes of a unit's result; None: it failed."""
    session.inputs["x"][...] = unit
    try:
        session.run()
    except InvalidPlan:
        return None
    return bytes(output.tobytes())


@pytest.mark.parametrize("case", CASES)
def test_a_unit_has_the_same_bits_in_any_company(case: str) -> None:
    with denormals_as_zero():
        for k in SIZES:
            session, output = session_for(case, k)
            units = list(company(k))
            alone = [bits_of(*session_for(case, k), units[0]), bits_of(session, output, units[0])]
            assert alone[0] == alone[1], f"size {k}: another session"
            expected = [bits_of(session, output, unit) for unit in units]
            for order in (range(len(units) - 1, -1, -1), np.random.default_rng(0).permutation(len(units))):
                for number in order:
                    assert bits_of(session, output, units[number]) == expected[number], f"size {k}, unit {number}"


@pytest.mark.parametrize("name", ["cnn_group_norm", "logistic", "lstm", "transformer"])
def test_a_plan_has_the_same_bits_in_any_company(name: str) -> None:
    plan = Plan.load(VECTORS / f"{name}.plan")
    entry = plan.manifest.graphs["grads"]
    outputs = [port for port in entry.outputs if port.name.startswith("grads/")]
    many = selftest_inputs(plan.manifest, 9)

    def run(session: ExactSession, output: Any, unit: int) -> bytes:
        for port, buffer in session.inputs.items():
            value = many[port] if port in many else np.full(buffer.shape, 0.5, np.float32)
            buffer[...] = value[unit : unit + 1] if port.startswith(("data/", "noise/")) else value
        session.run()
        return bytes(output.tobytes())

    def new() -> tuple[ExactSession, Any]:
        output, buffers = flat_outputs(outputs)
        return ExactSession(plan.graph("grads"), name=name, inputs=entry.inputs, outputs=buffers), output

    first = new()
    expected = [run(*first, unit) for unit in range(9)]
    for order in (range(8, -1, -1), [4, 4, 4, 0, 8]):
        for unit in order:
            assert run(*first, unit) == expected[unit]
    second = new()
    assert [run(*second, unit) for unit in range(9)] == expected


@pytest.mark.skipif(not may_flush, reason="this machine's C library can't set the register")
def test_denormals_are_zero_within_the_block_only() -> None:
    tiny, one = np.array([1e-40], np.float32), np.float32(1)
    with denormals_as_zero():
        assert (tiny * one)[0] == 0
        session, output = session_for("Mul", 4)
        session.inputs["x"][...] = 1e-22
        session.run()
        assert (output == np.float32(0.125)).all()
    assert (tiny * one)[0] > 0


def _finds_memory(order: tuple[int, ...], more_bytes: int) -> bool:
    """Whether the last run of a session succeeds, after runs with these numbers of rows, with so much more memory."""
    g = GraphBuilder()
    rows = g.op("Concat", g.op("Shape", "x", start=0, end=1), g.ints(1_000_000), axis=0)
    wide = g.op("Expand", g.op("Reshape", "x", g.ints(-1, 1)), rows)
    g.op("Reshape", g.op("ReduceMax", g.op("Neg", wide), g.ints(0, 1), keepdims=0), g.ints(1), out="y")
    port = Port("x", "float32", ("batch",))
    model = g.model((port,), (Port("y", "float32", (1,)),))
    _, buffers = flat_outputs([Port("y", "float32", (1,))])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, used + more_bytes))
    session = ExactSession(model.SerializeToString(), name="memory", inputs=[port], outputs=buffers, max_rows=64)
    for num_rows in order[:-1]:
        session.run(num_rows)
    try:
        session.run(order[-1])
    except InvalidPlan:
        return False
    return True


def test_earlier_units_do_not_decide_whether_a_unit_finds_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest unit needs 512 MB, alone and after units of other sizes; an arena would keep what those took, and
    so would the allocator of C, with the settings of a Worker.
    """
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = {}
    for order in ((64,), (20, 64), (10, 20, 30, 40, 64)):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[order] = pool.submit(_finds_memory, order, 800_000_000).result()
    assert all(found.values()), found


@settings(PROFILE)
@given(programs(tries=8), st.integers(0, 2**32 - 1))
def test_a_random_program_has_the_same_bits_in_any_company(g: GraphBuilder, seed: int) -> None:
    """Programs of all operators, as deep as they come; the units are random, and one is extreme."""
    model = g.model(INPUTS, ())
    analysis = analyse(model.graph, name="program", max_n=8)
    made = [name for step in analysis.steps for name in step.output_names if analysis.values[name].dtype == "float32"]
    assume(made)
    name = made[-1]
    shape = tuple(at(size, 1) for size in analysis.values[name].shape)
    assume(int(np.prod(shape)) > 0)
    model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, shape))

    def new() -> tuple[ExactSession, Any]:
        output, buffers = flat_outputs([Port(name, "float32", shape)])
        return ExactSession(model.SerializeToString(), name="program", inputs=INPUTS, outputs=buffers), output

    def run(session: ExactSession, output: Any, unit: dict[str, Any]) -> bytes | None:
        for port, value in unit.items():
            session.inputs[port][...] = value
        try:
            session.run()
        except InvalidPlan:
            return None
        return bytes(output.tobytes())

    units = [
        feed(1, seed),
        feed(1, seed + 1),
        {port: np.resize(EXTREMES, value.shape) for port, value in feed(1).items()},
    ]
    units[2]["data/y"] = np.array([-9])
    try:
        first, second = new(), new()
    except InvalidPlan:
        return
    with denormals_as_zero(), np.errstate(invalid="ignore"):
        expected = [run(*first, unit) for unit in units]
        for number in (2, 1, 0, 0, 2, 0):
            assert run(*first, units[number]) == expected[number]
        assert [run(*second, unit) for unit in units] == expected
