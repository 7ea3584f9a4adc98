"""Cases of the operators of plans: attributes, inputs, and a graph for each."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from pygrid.plans import Port
from pygrid.plans.operators import OPERATORS
from support.plans.handmade import GraphBuilder

Shape = tuple[int | str, ...]


class Case:
    """One node: the inputs are ports (dtype, shape) or constants (arrays, or lists of int64)."""

    def __init__(
        self, op: str, *inputs: Any, num_outputs: int = 1, out_dtype: str = "float32", **attributes: Any
    ) -> None:
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
                    g.const(
                        np.asarray(given) if isinstance(given, np.ndarray | np.generic) else np.array(given, np.int64)
                    )
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
    Case(
        "ConvTranspose", IMAGE, f(2, 3, 3, 3), f(6), group=2, strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 2]
    ),
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
    Case("Trilu", f("batch", 4, 3), np.array(-1)),
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
