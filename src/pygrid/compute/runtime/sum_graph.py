"""A plan's graph for one unit, followed by clipping, rounding to the grid and addition to a running sum.

    inputs                                 those of the plan, and ``sum/before``
    row       = concat(grads)              float32
    norm      = sqrt(sum of row^2)
    integers  = round(row * radius / max(norm, C))
    outputs                                ``sum/after`` = ``sum/before`` + integers, ``sum/row`` = row,
                                           ``sum/norm`` = norm, ``sum/squares`` = sum of integers^2

It does the steps of `pygrid.privacy.clipping` in the same call as the plan, while a row is in the cache. The same
argument bounds what is added: the last word is the sum of squares of integers, which is exact. The caller takes
``sum/after`` over only if this is at most S^2 and the norm is finite; otherwise (a value that is not finite, a row that
rounding took beyond the bound) it clips the row itself. Nodes of the plan that the gradients don't need, such as those
of the loss, are left out.

Every name of the plan gets a prefix, so that a plan can neither replace nor read a value of the nodes that follow it.
Nodes have no name (`without_names`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pygrid.plans.manifest import Graph, Port
from pygrid.privacy.clipping import Grid, holds_float32, long_radius

BEFORE, AFTER, ROW, NORM, SQUARES = "sum/before", "sum/after", "sum/row", "sum/norm", "sum/squares"
_PLAN = "plan/"
_ROUND = {"float32": 1.5 * 2.0**23, "float64": 1.5 * 2.0**52}
"""Added and taken away again, it leaves a number rounded to the nearest whole one, ties to even, below 2^22 or 2^51."""


def sum_dtype(grid: Grid) -> str:
    """The dtype in which contributions on this grid are rounded and added."""
    return "float32" if holds_float32(grid) else "float64"


def plan_name(name: str) -> str:
    """The name of a plan's input or output in the graph of `sum_graph`."""
    return _PLAN + name


def plan_inputs(graph: Graph) -> list[Port]:
    """The plan's inputs, named as in the graph of `sum_graph`."""
    return [Port(plan_name(port.name), port.dtype, port.shape) for port in graph.inputs]


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes have no name.

    ONNX Runtime writes the name of a node into the error of a run that failed. A name of some megabytes would make the
    failure of one record take milliseconds, which the limit of an evaluation does not end.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        node.ClearField("name")
    return copy


def sum_graph(model: onnx.ModelProto, outputs: Sequence[Port], grid: Grid) -> bytes:
    """The graph as ONNX bytes.

    Args:
        model: a graph of a plan that passed the gate.
        outputs: the float32 outputs that make a contribution, in their order.
        grid: the grid of the sum.
    """
    size = sum(int(np.prod([int(one) for one in port.shape], dtype=np.int64)) for port in outputs)
    source = _renamed(without_names(model).graph, {plan_name(port.name) for port in outputs})
    dtype = sum_dtype(grid)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: npt.NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def number(name: str, value: float) -> str:
        return constant(name, np.array([value], dtype))

    nodes = []
    flat = constant("flat", np.array([-1], np.int64))
    for index, port in enumerate(outputs):
        nodes.append(helper.make_node("Reshape", [plan_name(port.name), flat], [f"part{index}"]))
    nodes.append(helper.make_node("Concat", [f"part{index}" for index in range(len(outputs))], [ROW], axis=0))
    row = ROW
    if dtype != "float32":
        row = "wide"
        nodes.append(helper.make_node("Cast", [ROW], [row], to=kind))
    magic = number("magic", _ROUND[dtype])
    for operator, inputs, output in (
        ("ReduceL2", [row], NORM),
        ("Max", [NORM, number("clip", grid.clip)], "length"),
        ("Div", [number("radius", long_radius(grid, size)), "length"], "factor"),
        ("Mul", [row, "factor"], "scaled"),
        ("Add", ["scaled", magic], "raised"),
        ("Sub", ["raised", magic], "integers"),
        ("ReduceSumSquare", ["integers"], SQUARES),
        ("Add", [BEFORE, "integers"], AFTER),
    ):
        nodes.append(helper.make_node(operator, inputs, [output]))
    graph = helper.make_graph(
        [*source.node, *nodes],
        "sum",
        [*source.input, helper.make_tensor_value_info(BEFORE, kind, [size])],
        [
            helper.make_tensor_value_info(AFTER, kind, [size]),
            helper.make_tensor_value_info(ROW, onnx.TensorProto.FLOAT, [size]),
            helper.make_tensor_value_info(NORM, kind, [1]),
            helper.make_tensor_value_info(SQUARES, kind, [1]),
        ],
        initializer=[*source.initializer, *constants],
    )
    whole = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(whole.SerializeToString())


def _renamed(graph: onnx.GraphProto, needed: set[str]) -> onnx.GraphProto:
    """A copy in which every tensor's name has the plan's prefix, with the nodes that the ``needed`` tensors
    depend on.
    """
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    for tensor in (*copy.input, *copy.initializer):
        tensor.name = plan_name(tensor.name)
    for node in copy.node:
        for names in (node.input, node.output):
            names[:] = [name and plan_name(name) for name in names]
    kept = []
    for node in reversed(copy.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del copy.node[:]
    copy.node.extend(reversed(kept))
    return copy
