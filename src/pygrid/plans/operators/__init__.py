"""The closed list of operators that a plan may use, each with its shape rule and its cost.

All belong to ONNX's default domain at opset 20. There is no control flow, no random operator, and no operator that
carries a subgraph, a string, a sequence or a file name. Exporters take the names from `OPERATORS`, so both sides agree.

Shapes are exact for every batch size (`pygrid.plans.sizes`). The integer arithmetic that graphs do on shapes is also
computed (`TensorValue.known`). A shape is refused if it depends on data, or if it is not a polynomial in the batch
size.

Cost is counted in operations: one per element that an operator writes, whether the operator computes or moves it. The
table has exceptions: reductions and scatters also count what they read, softmax counts 5 per element, and products
count 2 per multiply-add.
Source of the shape rules: the operator documentation of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pygrid.plans.operators import elements, making, moves, products
from pygrid.plans.operators.values import Cost, Infer, Operator, OperatorCall, TensorValue
from pygrid.plans.sizes import Size


def _written(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return sum((value.num_elements for value in outputs), start=0)


def _read_and_written(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return call.get(0).num_elements + outputs[0].num_elements


def _five_written(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return 5 * outputs[0].num_elements


def _free(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return 0


def _row(infer: Infer, summary: str, cost: Cost = _written, scratch: Cost = _free) -> Operator:
    return Operator(infer, cost, summary, scratch)


_UNARY = elements.elementwise()
_ARITHMETIC = "arithmetic"
_FUNCTION = "function of each element"
_COMPARE = "comparison"
_MOVE = "moves elements"
_MAKE = "makes a tensor"
_SHAPE = "shape arithmetic"
_PRODUCT = "product"
_REDUCE = "reduces along axes"
_POOL = "pooling"

OPERATORS: Mapping[str, Operator] = {
    "Abs": _row(_UNARY, _FUNCTION),
    "Add": _row(elements.elementwise(fold=lambda a, b: a + b), _ARITHMETIC),
    "And": _row(elements.elementwise("bool", lambda a, b: bool(a and b)), _COMPARE),
    "ArgMax": _row(moves.infer_arg, "index of the largest", _read_and_written),
    "ArgMin": _row(moves.infer_arg, "index of the smallest", _read_and_written),
    "AveragePool": _row(products.infer_pool, _POOL, products.pool_cost),
    "Cast": _row(elements.infer_cast, "changes the dtype"),
    "Clip": _row(elements.infer_clip, _FUNCTION),
    "Concat": _row(moves.infer_concat, _MOVE),
    "Constant": _row(making.infer_constant, _MAKE, _free),
    "ConstantOfShape": _row(making.infer_constant_of_shape, _MAKE),
    "Conv": _row(products.infer_conv, "convolution", products.conv_cost, products.conv_scratch),
    "ConvTranspose": _row(
        products.infer_conv_transpose,
        "transposed convolution",
        products.conv_transpose_cost,
        products.conv_transpose_scratch,
    ),
    "Cos": _row(_UNARY, _FUNCTION),
    "Div": _row(elements.division(elements.truncated), _ARITHMETIC),
    "Elu": _row(_UNARY, _FUNCTION),
    "Equal": _row(elements.elementwise("bool", elements.by_order(0)), _COMPARE),
    "Erf": _row(_UNARY, _FUNCTION),
    "Exp": _row(_UNARY, _FUNCTION),
    "Expand": _row(moves.infer_expand, _MOVE),
    "Floor": _row(_UNARY, _FUNCTION),
    "Gather": _row(moves.infer_gather, _MOVE),
    "GatherElements": _row(moves.infer_gather_elements, _MOVE),
    "Gemm": _row(products.infer_gemm, _PRODUCT, products.gemm_cost),
    "GlobalAveragePool": _row(products.infer_global_pool, _POOL, _read_and_written),
    "Greater": _row(elements.elementwise("bool", elements.by_order(1)), _COMPARE),
    "GreaterOrEqual": _row(elements.elementwise("bool", elements.by_order(0, 1)), _COMPARE),
    "Identity": _row(elements.infer_identity, _MOVE),
    "LeakyRelu": _row(_UNARY, _FUNCTION),
    "Less": _row(elements.elementwise("bool", elements.by_order(-1)), _COMPARE),
    "LessOrEqual": _row(elements.elementwise("bool", elements.by_order(-1, 0)), _COMPARE),
    "Log": _row(_UNARY, _FUNCTION),
    "LogSoftmax": _row(elements.infer_softmax, "softmax", _five_written),
    "MatMul": _row(products.infer_matmul, _PRODUCT, products.matmul_cost),
    "Max": _row(elements.elementwise(fold=elements.larger), _ARITHMETIC),
    "MaxPool": _row(products.infer_pool, _POOL, products.pool_cost),
    "Min": _row(elements.elementwise(fold=elements.smaller), _ARITHMETIC),
    "Mod": _row(elements.division(elements.modulo), _ARITHMETIC),
    "Mul": _row(elements.elementwise(fold=lambda a, b: a * b), _ARITHMETIC),
    "Neg": _row(elements.elementwise(fold=lambda a: -a), _ARITHMETIC),
    "Not": _row(elements.elementwise("bool", lambda a: not a), _COMPARE),
    "Or": _row(elements.elementwise("bool", lambda a, b: bool(a or b)), _COMPARE),
    "Pad": _row(moves.infer_pad, _MOVE),
    "Pow": _row(elements.infer_pow, _ARITHMETIC),
    "Range": _row(making.infer_range, _MAKE),
    "Reciprocal": _row(_UNARY, _ARITHMETIC),
    "ReduceMax": _row(
        moves.reduction(lambda items: elements.larger(*items) if items else None), _REDUCE, _read_and_written
    ),
    "ReduceMean": _row(moves.reduction(), _REDUCE, _read_and_written),
    "ReduceMin": _row(
        moves.reduction(lambda items: elements.smaller(*items) if items else None), _REDUCE, _read_and_written
    ),
    "ReduceProd": _row(moves.reduction(math.prod), _REDUCE, _read_and_written),
    "ReduceSum": _row(moves.reduction(sum), _REDUCE, _read_and_written),
    "ReduceSumSquare": _row(moves.reduction(), _REDUCE, _read_and_written),
    "Relu": _row(_UNARY, _FUNCTION),
    "Reshape": _row(moves.infer_reshape, _MOVE),
    "ScatterElements": _row(moves.infer_scatter_elements, _MOVE, moves.scatter_cost),
    "Shape": _row(making.infer_shape, _SHAPE, _free),
    "Sigmoid": _row(_UNARY, _FUNCTION),
    "Sign": _row(_UNARY, _FUNCTION),
    "Sin": _row(_UNARY, _FUNCTION),
    "Size": _row(making.infer_size, _SHAPE, _free),
    "Slice": _row(moves.infer_slice, _MOVE),
    "Softmax": _row(elements.infer_softmax, "softmax", _five_written),
    "Softplus": _row(_UNARY, _FUNCTION),
    "Split": _row(moves.infer_split, _MOVE),
    "Sqrt": _row(_UNARY, _FUNCTION),
    "Squeeze": _row(moves.infer_squeeze, _MOVE),
    "Sub": _row(elements.elementwise(fold=lambda a, b: a - b), _ARITHMETIC),
    "Sum": _row(elements.elementwise(), _ARITHMETIC),
    "Tanh": _row(_UNARY, _FUNCTION),
    "Tile": _row(moves.infer_tile, _MOVE),
    "Transpose": _row(moves.infer_transpose, _MOVE),
    "Trilu": _row(moves.infer_trilu, _MOVE),
    "Unsqueeze": _row(moves.infer_unsqueeze, _MOVE),
    "Where": _row(elements.infer_where, "chooses by a condition"),
}
"""Operator name -> rule. Plans use no other operators."""
