"""The shape rule of every operator of the table agrees with ONNX Runtime, at several batch sizes.

Each case is a one-node graph. It is worked out once, for a batch of n, and run with 1, 3 and 6 examples: the shapes
must be those that were worked out. Cases of refusal follow.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from pygrid.errors import InvalidPlan
from pygrid.plans import Port
from pygrid.plans.costs import analyse
from pygrid.plans.operators import OPERATORS
from pygrid.plans.sizes import at
from support.plans.handmade import GraphBuilder
from support.plans.operators import CASES, COMPARE, IMAGE, Case, f, i

BATCHES = (1, 3, 6)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_shapes_are_those_of_the_runtime(case):
    model, ports = case.build()
    analysis = analyse(model.graph, name="case", max_n=max(BATCHES))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in BATCHES:
        feed = {}
        for port in ports:
            shape = [n if isinstance(size, str) else size for size in port.shape]
            feed[port.name] = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(port.dtype)
        for name, array in zip(analysis.outputs, session.run(None, feed), strict=True):
            value = analysis.values[name]
            assert tuple(at(size, n) for size in value.shape) == array.shape
            assert value.dtype == array.dtype.name
            assert at(value.num_bytes, n) == array.nbytes
            if value.known is not None:
                known = np.array([at(item, n) for item in value.known.reshape(-1)]).reshape(array.shape)
                np.testing.assert_array_equal(known, array)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_nothing_that_was_in_the_memory_of_an_output_is_left(case):
    model, ports = case.build()
    analysis = analyse(model.graph, name="case", max_n=2)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = []
    for filling in (0x00, 0x3F, 0xFF):
        binding, kept = session.io_binding(), []
        for port in ports:
            shape = [2 if isinstance(size, str) else size for size in port.shape]
            binding.bind_cpu_input(port.name, np.ones(shape, port.dtype))
        for name in analysis.outputs:
            value = analysis.values[name]
            array = np.empty([at(size, 2) for size in value.shape], value.dtype)
            array.view(np.uint8 if array.ndim else array.dtype).fill(filling)
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            kept.append(array)
        session.run_with_iobinding(binding)
        results.append([array.tobytes() for array in kept])
    assert results[0] == results[1] == results[2]


def test_every_operator_has_a_case():
    assert {case.op for case in CASES} == set(OPERATORS)


REFUSED = [
    (Case("Add", f("batch", 3), f(5, 3)), "do not fit together for every batch size"),
    (Case("MatMul", f("batch", 3), f("batch", 3)), "summed over"),
    (Case("Reshape", f("batch", 3), [2, -1]), "for every batch size"),
    (Case("Reshape", f("batch", 3), i(2)), "not known before the graph runs"),
    (Case("Reshape", f(6), [-1, -1]), "more than one size is -1"),
    (Case("Reshape", f(6), [4]), "numbers of elements"),
    (Case("Squeeze", f("batch", 1), None), "axes must be given"),
    (Case("Squeeze", f("batch", 1), [0]), "cannot be dropped"),
    (Case("Slice", f("batch", 3), [0], [4], [0]), "depends on the batch size cannot be cut"),
    (Case("Slice", f("batch", 3), [0], i(1)), "not known"),
    (Case("Slice", f("batch", 3), [0], [0], [1]), "makes an empty tensor"),
    (Case("Pad", f("batch", 3), [-1, 0, 0, 0]), "makes an empty tensor"),
    (Case("Div", i("batch"), i("batch")), "divided only by constants"),
    (Case("Mod", i("batch"), np.array(0)), "divided only by constants"),
    (Case("Split", f("batch", 6), axis=0, num_outputs=2), "cannot be split"),
    (Case("Concat", f("batch", 3), f("batch", 4), axis=0), "differ in an axis other than"),
    (Case("ConstantOfShape", i(1)), "not known"),
    (Case("Expand", f(1), i(1)), "not known"),
    (Case("Tile", f(2), [-1]), "negative"),
    (Case("Pad", f("batch", 3), [-2, 0, 0, 0]), "negative, or falls"),
    (Case("Pad", f("batch", 3), [0, 1, 0, 1], mode="reflect"), "only constant padding"),
    (Case("Gather", [3, 4], np.array([2])), "out of range"),
    (Case("Gather", f(3, 4), np.array([2]), axis=2), "axis 2 does not exist"),
    (Case("GatherElements", f("batch", 5), i("batch", 2, 1), axis=1), "the same number of dimensions"),
    (Case("GatherElements", f(2, 5), i("batch", 2), axis=1), "larger than the data"),
    # The runtime reads beyond the end of a short bias, and writes outside its memory for a diagonal that is far away.
    (Case("Conv", IMAGE, f(5, 2, 3, 2), f(1)), "the bias has shape"),
    (Case("Conv", IMAGE, f(4, 1, 3, 3), f(2), group=2), "the bias has shape"),
    (Case("Conv", IMAGE, f(5, 2, 3, 2), f(5, 1)), "the bias has shape"),
    (Case("ConvTranspose", IMAGE, f(2, 3, 3, 3), f(3), group=2), "the bias has shape"),
    # The runtime adds to what its output held before, which can be values of another record.
    (Case("ConvTranspose", IMAGE, f(2, 3, 3, 3), output_padding=[1, 0]), "smaller than the stride"),
    (Case("ConvTranspose", IMAGE, f(2, 3, 3, 3), output_padding=[0, 1], dilations=[1, 2]), "smaller than the stride"),
    (Case("Trilu", f(4, 3), i()), "not known before the graph runs"),
    (Case("Trilu", f(4, 3), np.array(-(2**63))), "use one within the matrix"),
    (Case("Trilu", f(4, 3), np.array(2**63 - 1)), "use one within the matrix"),
    (Case("MaxPool", IMAGE, kernel_shape=[2, 2], ceil_mode=1), "ceil_mode"),
    (Case("Conv", IMAGE, f(5, 2, 3, 2), auto_pad="SAME_UPPER"), "auto_pad"),
    (Case("Conv", IMAGE, f(5, 2, 9, 9)), "larger than the padded image"),
    (Case("Conv", f(1, 2, "batch", 5), f(5, 2, 1, 1)), "must not depend on the batch size"),
    (Case("Cast", f("batch"), to=TensorProto.STRING), "casts to a type"),
    (Case("Constant", value=helper.make_tensor("c", TensorProto.DOUBLE, [1], [1.0])), "element type 11 is not allowed"),
    (Case("Constant", value_string=b"x"), "a constant needs exactly one of"),
    (Case("Range", np.array(0), np.array(9), np.array(0)), "cannot be bounded"),
    (Case("Transpose", f("batch", 3), perm=[0, 0]), "not a permutation of the axes"),
    (Case("ArgMax", np.zeros(0, np.int64), axis=0), "an empty axis has no largest"),
]


@pytest.mark.parametrize(("case", "reason"), REFUSED, ids=lambda value: repr(value) if isinstance(value, Case) else "")
def test_shapes_that_can_not_be_bounded_are_refused_by_name(case, reason):
    model, _ = case.build()
    with pytest.raises(InvalidPlan, match=reason) as refusal:
        analyse(model.graph, name="case", max_n=8)
    assert refusal.value.code == "plan_shape_refused"
    assert f"node 0 ({case.op})" in refusal.value.detail


def analysed(build) -> Any:
    g = GraphBuilder()
    build(g)
    return analyse(g.model((Port("x", "float32", ("batch", 6)),), ()).graph, name="case", max_n=1000)


def test_shape_arithmetic_is_followed_exactly():
    def build(g):
        n = g.op("Gather", g.op("Shape", "x"), g.const(np.array(0)))
        twice = g.op("Mul", g.op("Unsqueeze", n, g.ints(0)), g.ints(2))
        g.op("Reshape", "x", g.op("Concat", twice, g.op("Div", g.ints(6), g.ints(2)), axis=0), out="y")
        g.op("Range", g.const(np.array(0)), n, g.const(np.array(1)), out="positions")

    values = analysed(build).values
    assert [str(size) for size in values["y"].shape] == ["2n", "3"]
    assert [str(size) for size in values["positions"].shape] == ["n"]


@pytest.mark.parametrize(
    ("op", "number"), [("Sub", 1000), ("Mod", 7), ("Div", 3), ("Min", 5), ("Equal", 3)], ids=lambda v: str(v)
)
def test_a_size_that_is_small_for_some_batches_only_is_refused(op, number):
    """E.g. (1000 - n) elements: few at the largest batch, where a gate might look, and many at the smallest."""

    def build(g):
        result = g.op(op, g.ints(number) if op == "Sub" else g.op("Shape", "x", end=1), g.op("Shape", "x", end=1))
        if op != "Sub":
            g.nodes.pop()
            result = g.op(op, g.op("Shape", "x", end=1), g.ints(number))
        if op == "Equal":
            result = g.op("Where", result, g.ints(1_000_000), g.ints(1))
        g.op("ConstantOfShape", result)

    with pytest.raises(InvalidPlan) as refusal:
        analysed(build)
    assert refusal.value.code == "plan_shape_refused"


def test_numbers_that_would_overflow_are_not_believed():
    """2**62 * 4 is 0 in 64 bits: a graph could hide a size behind it."""

    def build(g):
        g.op("ConstantOfShape", g.op("Add", g.op("Mul", g.ints(2**62), g.ints(4)), g.ints(3)))

    with pytest.raises(InvalidPlan, match="not known"):
        analysed(build)


def test_costs_of_a_product():
    analysis = analysed(lambda g: g.op("MatMul", "x", g.const(np.zeros((6, 5), np.float32))))
    assert analysis.flops(10) == 2 * 10 * 6 * 5
    assert analysis.flops_split() == (0, 60)
    assert analysis.peak_bytes(10) == 4 * (60 + 30 + 50)
    assert analysis.largest(10)[1] == 200


def test_memory_is_freed_after_the_last_use():
    def build(g):
        a = g.op("Exp", "x")
        c = g.op("Exp", g.op("Exp", a))
        g.op("Add", c, a, out="y")

    # x and y stay; beside them at most a, c and the one in the making
    assert analysed(build).peak_bytes(1) == 4 * 6 * 4


A, B, POSITIVE = np.array([7, -7, 6, 0]), np.array([2, 3, -4, 5]), np.array([2, 3, 4, 5])
TRUTH = np.array([True, False])
FOLDED = [
    *(Case(op, A, B) for op in ["Add", "Sub", "Mul", "Max", "Min", *COMPARE]),
    Case("Div", A, POSITIVE),
    Case("Mod", A, POSITIVE),
    Case("Neg", A),
    Case("Not", TRUTH),
    Case("And", TRUTH, TRUTH[::-1].copy()),
    Case("Or", TRUTH, TRUTH[::-1].copy()),
    Case("Where", TRUTH.reshape(2, 1), A, B),
    Case("Cast", A, to=TensorProto.INT32),
    Case("Identity", A),
    Case("Concat", A, B, axis=0),
    Case("Gather", A, np.array([-1, 0])),
    Case("Slice", A, [3], [0], [0], [-2]),
    Case("Reshape", A, [2, 2]),
    Case("Squeeze", A.reshape(1, 4), [0]),
    Case("Unsqueeze", A, [1]),
    Case("Transpose", A.reshape(2, 2)),
    Case("Expand", A, [2, 1]),
    Case("ReduceSum", A),
    Case("ReduceProd", A, keepdims=0),
    Case("ReduceMax", A),
    Case("ReduceMin", A, [0]),
    Case("ConstantOfShape", [2], value=helper.make_tensor("c", TensorProto.INT64, [1], [7])),
    Case("Constant", value_int=5),
]


@pytest.mark.parametrize("case", FOLDED, ids=repr)
def test_integers_are_computed_as_the_runtime_does(case):
    model, _ = case.build()
    value = analyse(model.graph, name="case", max_n=8).values["out0"]
    (expected,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {})
    assert value.known is not None
    np.testing.assert_array_equal(value.known.astype(expected.dtype), expected)
    assert value.shape == expected.shape
    assert value.dtype == expected.dtype.name


def test_no_operator_ends_the_process_whatever_the_data():
    done = subprocess.run(
        [sys.executable, "-m", "support.plans.extremes"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-500:])
    assert lines[-1] == "all done"
    assert lines.count("ran") > 2 * len(CASES) - 60
