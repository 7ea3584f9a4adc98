"""The shape rule of every operator of the table agrees with ONNX Runtime, at several batch sizes.

Each case is a one-node graph. It is worked out once, for a batch of n, and run with 1, 3 and 6 examples: the shapes must be
those that were worked out. Cases of refusal follow.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from handmade import GraphBuilder
from onnx import TensorProto, helper

from pygrid.errors import InvalidPlan
from pygrid.plans import Port
from pygrid.plans.costs import analyse
from pygrid.plans.operators import OPERATORS
from pygrid.plans.sizes import at

BATCHES = (1, 3, 6)

Shape = tuple[int | str, ...]


class Case:
    """One node: the inputs are ports (dtype, shape) or constants (arrays, or lists of int64)."""

    def __init__(self, op: str, *inputs: Any, num_outputs: int = 1, out_dtype: str = "float32", **attributes: Any) -> None:
        self.op, self.inputs, self.attributes = op, inputs, attributes
        self.num_outputs, self.out_dtype = num_outputs, out_dtype

    def __repr__(self) -> str:
        return f"{self.op}-{'-'.join(str(self._text(i)) for i in self.inputs)}-{self.attributes}".replace(" ", "")

    @staticmethod
    def _text(given: Any) -> str:
        return str(given[1]) if isinstance(given, tuple) else "" if given is None else str(np.asarray(given).tolist())

    def build(self) -> tuple[Any, list[Port]]:
        g, ports, names = GraphBuilder(), [], []
        for index, given in enumerate(self.inputs):
            if given is None:
                names.append("")
            elif isinstance(given, tuple):
                ports.append(Port(f"in{index}", given[0], given[1]))
                names.append(ports[-1].name)
            else:
                names.append(
                    g.const(np.asarray(given) if isinstance(given, np.ndarray | np.generic) else np.array(given, np.int64))
                )
        outputs = [f"out{i}" for i in range(self.num_outputs)]
        g.nodes.append(helper.make_node(self.op, names, outputs, **self.attributes))
        model = g.model(tuple(ports), ())
        for name in outputs:
            model.graph.output.append(helper.make_tensor_value_info(name, 0, None))
            model.graph.output[-1].type.Clear()
        return model, ports


def f(*shape: int | str) -> tuple[str, Shape]:
    return ("float32", shape)


def i(*shape: int | str) -> tuple[str, Shape]:
    return ("int64", shape)


def b(*shape: int | str) -> tuple[str, Shape]:
    return ("bool", shape)


UNARY = [
    *("Abs", "Cos", "Elu", "Erf", "Exp", "Floor", "Identity", "LeakyRelu", "Log", "Neg"),
    *("Reciprocal", "Relu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Tanh"),
]
BINARY = ["Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum"]
COMPARE = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
IMAGE = f("batch", 2, 7, 6)

CASES = [
    *(Case(op, f("batch", 3)) for op in UNARY),
    *(Case(op, f("batch", 3), f("batch", 3)) for op in BINARY + COMPARE),
    *(Case(op, f("batch", 1, 3), f(4, 1)) for op in BINARY + COMPARE),
    Case("Not", b("batch", 3)),
    Case("And", b("batch", 3), b(3)),
    Case("Or", b("batch", 1), b(1, 3)),
    Case("Mod", i("batch", 3), np.array(2)),
    Case("Div", i("batch", 3), np.array([1, 2, 3])),
    Case("Clip", f("batch", 3), np.float32(0), np.float32(1)),
    Case("Cast", f("batch", 3), to=TensorProto.INT64),
    Case("Where", b("batch", 1), f("batch", 3), f(3)),
    Case("MatMul", f("batch", 3), f(3, 4)),
    Case("MatMul", f(4, "batch"), f("batch", 3)),
    Case("MatMul", f("batch", 2, 3), f(3, 4)),
    Case("MatMul", f("batch", 5, 2, 3), f(5, 3, 4)),
    Case("MatMul", f("batch", 3), f(3)),
    Case("MatMul", f(3), f(3)),
    Case("MatMul", f(3), f("batch", 3, 2)),
    Case("Gemm", f("batch", 3), f(4, 3), f(4), transB=1),
    Case("Gemm", f("batch", 3), f("batch", 4), transA=1),
    Case("Conv", IMAGE, f(5, 2, 3, 2)),
    Case("Conv", IMAGE, f(4, 1, 3, 3), f(4), group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[2, 1]),
    Case("Conv", f("batch", 3, 9), f(2, 3, 4), strides=[3]),
    Case("Conv", f(2, "batch", 7, 6), f(5, "batch", 3, 2)),
    Case("ConvTranspose", IMAGE, f(2, 5, 3, 2)),
    Case("ConvTranspose", IMAGE, f(2, 3, 3, 3), f(6), group=2, strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 2]),
    Case("ConvTranspose", IMAGE, f(2, 3, 2, 2), dilations=[2, 3]),
    Case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], num_outputs=2),
    Case("MaxPool", IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 1], dilations=[2, 1]),
    Case("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 1, 1], count_include_pad=1),
    Case("GlobalAveragePool", IMAGE),
    *(Case(op, f("batch", 3, 4), [1]) for op in OPERATORS if op.startswith("Reduce")),
    Case("ReduceSum", f("batch", 3, 4), [-1, 0], keepdims=0),
    Case("ReduceSum", f("batch", 3, 4)),
    Case("ReduceSum", f("batch", 3, 4), noop_with_empty_axes=1),
    Case("ReduceMean", f("batch", 3, 4), keepdims=0),
    Case("ArgMax", f("batch", 3), axis=1, keepdims=0),
    Case("ArgMin", f("batch", 3), axis=-1),
    Case("Softmax", f("batch", 3)),
    Case("LogSoftmax", f("batch", 3), axis=1),
    Case("Concat", f("batch", 3), f("batch", 2), axis=1),
    Case("Concat", f("batch", 3), f(4, 3), f("batch", 3), axis=0),
    Case("Expand", f("batch", 1, 3), [2, 1]),
    Case("Expand", f(3, 1), [2, 1, 4]),
    Case("Reshape", f("batch", 3, 4), [0, -1]),
    Case("Reshape", f("batch", 3, 4), [-1, 4]),
    Case("Reshape", f("batch", 3, 4), [-1]),
    Case("Squeeze", f("batch", 1, 4), [1]),
    Case("Unsqueeze", f("batch", 4), [0, -1]),
    Case("Transpose", f("batch", 3, 4), perm=[2, 0, 1]),
    Case("Transpose", f("batch", 3, 4)),
    Case("Gather", f(5, 3), i("batch", 2)),
    Case("Gather", f("batch", 5, 3), np.array([[0, 4]]), axis=1),
    Case("GatherElements", f("batch", 5), i("batch", 2), axis=1),
    Case("GatherElements", f("batch", 5), i(1, 2), axis=1),
    Case("ScatterElements", f("batch", 5), i("batch", 2), f("batch", 2), axis=1, reduction="add"),
    Case("ScatterElements", f(7, 2), i("batch", 2), f("batch", 2), axis=0, reduction="add"),
    Case("Slice", f("batch", 5), [1], [4], [1], [2]),
    Case("Slice", f("batch", 5), [0, -3], [2**62, -1]),
    Case("Slice", f("batch", 5), [4], [-(2**62)], [1], [-1]),
    Case("Slice", f("batch", 5), [-1], [-5], [1], [-2]),
    Case("Split", f("batch", 6), [1, 2, 3], axis=1, num_outputs=3),
    Case("Pad", f("batch", 5), [0, 1, 0, 2]),
    Case("Pad", f("batch", 5), [-1, 2], None, [1]),
    Case("Tile", f("batch", 5), [2, 3]),
    Case("Trilu", f("batch", 4, 3), upper=0),
    Case("Constant", value_ints=[1, 2, 3]),
    Case("Constant", value=helper.make_tensor("c", TensorProto.FLOAT, [2, 1], [1.0, 2.0])),
    Case("ConstantOfShape", [2, 3], value=helper.make_tensor("c", TensorProto.INT64, [1], [7])),
    Case("Range", np.array(2), np.array(9), np.array(3)),
    Case("Range", np.array(9), np.array(2), np.array(-2)),
    Case("Range", np.array(9), np.array(2), np.array(1)),
    Case("Shape", f("batch", 3)),
    Case("Shape", f("batch", 3, 4), start=1, end=-1),
    Case("Size", f("batch", 3)),
]


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
        [sys.executable, "extremes.py"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-500:])
    assert lines[-1] == "all done"
    assert lines.count("ran") > 2 * len(CASES) - 60
