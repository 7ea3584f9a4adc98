"""Matrix products, convolutions, normalization, softmax and losses, with their gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pygrid.plans.authoring.lowering.core import Context, fixed_size, is_number, lowers, numel
from pygrid.plans.authoring.lowering.elementwise import inverse_root
from pygrid.plans.authoring.lowering.graph import Dim, LoweredValue
from pygrid.plans.authoring.lowering.reductions import variance
from pygrid.plans.authoring.lowering.shapes import pad

# -- products ---------------------------------------------------------------------------------------------------------


@lowers("mm.default", "bmm.default")
def mm(c: Context, a: LoweredValue, b: LoweredValue) -> LoweredValue:
    return c.matmul(a, b)


@lowers("addmm.default")
def addmm(
    c: Context, bias: LoweredValue, a: LoweredValue, b: LoweredValue, *, beta: Any = 1, alpha: Any = 1
) -> LoweredValue:
    if is_number(beta, 1) and is_number(alpha, 1):
        return c.gemm(a, b, bias)
    return c.add(c.mul(bias, beta), c.mul(c.matmul(a, b), alpha))


@lowers("mv.default")
def mv(c: Context, a: LoweredValue, b: LoweredValue) -> LoweredValue:
    # As matrices: ONNX Runtime 1.32 computes another product of a transposed matrix and a vector.
    return c.reshape(c.matmul(a, c.reshape(b, (*b.shape, 1))), c.shape)


@lowers("dot.default")
def dot(c: Context, a: LoweredValue, b: LoweredValue) -> LoweredValue:
    return c.reduce("ReduceSum", c.binary("Mul", a, b), ())


# -- convolution -----------------------------------------------------------------------------------------------------


def spatial(values: Sequence[int], rank: int) -> list[int]:
    """One number per axis, for an operator that accepts one number for all axes."""
    return list(values) * rank if len(values) == 1 else list(values)


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an input; one number per axis."""

    stride: Sequence[int]
    pads: Sequence[int]
    """Padding before each axis, then behind each."""
    dilation: Sequence[int]
    groups: int

    @classmethod
    def of(
        cls, rank: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
    ) -> Geometry:
        """From the arguments of torch, for this number of axes."""
        return cls(spatial(stride, rank), spatial(padding, rank) * 2, spatial(dilation, rank), groups)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of ONNX."""
        stride, pads, dilation = list(self.stride), list(self.pads), list(self.dilation)
        return {"strides": stride, "pads": pads, "dilations": dilation, "group": self.groups}

    def padded(self, c: Context, x: LoweredValue) -> LoweredValue:
        n = len(self.stride)
        return pad(c, x, [0, 0, *self.pads[:n]], [0, 0, *self.pads[n:]])


@lowers("convolution.default")
def convolution(
    c: Context, x: LoweredValue, weight: LoweredValue, bias: LoweredValue | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> LoweredValue:  # fmt: skip
    n = x.rank - 2
    attributes = Geometry.of(n, stride, padding, dilation, groups).attributes
    if transposed:
        attributes["output_padding"] = spatial(output_padding, n)
    inputs = [c.full(x), c.full(weight)] + ([] if bias is None else [c.full(bias)])
    return c.op("ConvTranspose" if transposed else "Conv", inputs, c.shape, **attributes)


@lowers("convolution_backward.default")
def convolution_backward(
    c: Context, grad: LoweredValue, x: LoweredValue, weight: LoweredValue, bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
    output_mask: Sequence[bool],
) -> tuple[LoweredValue | None, LoweredValue | None, LoweredValue | None]:  # fmt: skip
    geometry = Geometry.of(x.rank - 2, stride, padding, dilation, groups)
    grad = c.full(grad)
    grad_x = grad_w = grad_b = None
    if transposed:
        if output_mask[0]:
            grad_x = c.op("Conv", [grad, c.full(weight)], x.shape, **geometry.attributes)
        if output_mask[1]:  # input and output exchange their roles
            grad_w = _weight_gradient(c, x, grad, weight.shape, geometry)
    else:
        if output_mask[0]:
            grad_x = input_gradient(c, grad, x, weight, geometry)
        if output_mask[1]:
            grad_w = _weight_gradient(c, grad, x, weight.shape, geometry)
    if output_mask[2]:
        grad_b = c.reduce("ReduceSum", grad, [0, *range(2, grad.rank)])
    return grad_x, grad_w, grad_b


def input_gradient(
    c: Context, grad: LoweredValue, x: LoweredValue, weight: LoweredValue, geometry: Geometry
) -> LoweredValue:
    """The transposed convolution; ``output_padding`` restores the rows that the stride skipped."""
    n, pads = len(geometry.stride), geometry.pads
    extra = []
    for axis, (s, d) in enumerate(zip(geometry.stride, geometry.dilation, strict=True)):
        size, kernel, out = (fixed_size(value, axis + 2) for value in (x, weight, grad))
        extra.append(size - ((out - 1) * s - pads[axis] - pads[n + axis] + d * (kernel - 1) + 1))
    attributes = geometry.attributes
    if any(extra):
        attributes["output_padding"] = extra
    return c.op("ConvTranspose", [grad, c.full(weight)], x.shape, **attributes)


_FEW_CHANNELS = 8
"""Below, one product over all kernel offsets is faster than one each (1 channel: 4x); above, slower (32 channels: 3x).
"""


def _weight_gradient(
    c: Context, grad: LoweredValue, x: LoweredValue, shape: Sequence[Dim], geometry: Geometry
) -> LoweredValue:
    """For each kernel offset, ``grad @ shifted(x)^T``: [out, examples * places] times [examples * places, in]."""
    if geometry.groups > 1:
        return _grouped_weight_gradient(c, grad, x, shape, geometry)
    outputs, channels = int(shape[0]), int(shape[1])
    swap = [1, 0, *range(2, x.rank)]
    rows = c.reshape(c.transpose(grad, swap), (outputs, numel([grad.shape[0], *grad.shape[2:]])))
    x = c.transpose(geometry.padded(c, x), swap)
    shifted = [c.reshape(part, (channels, rows.shape[1])) for part in _shifted(c, x, grad, shape, geometry)]
    kernel = len(shifted)
    if channels < _FEW_CHANNELS and kernel > 1:
        columns = c.op("Concat", shifted, (kernel * channels, rows.shape[1]), axis=0)
        total = c.op("Gemm", [rows, columns], (outputs, kernel * channels), transA=0, transB=1)
        total = c.reshape(total, (outputs, kernel, channels))
    else:
        parts = [c.op("Gemm", [rows, part], (outputs, channels), transA=0, transB=1) for part in shifted]
        parts = [c.reshape(part, (outputs, 1, channels)) for part in parts]
        total = parts[0] if kernel == 1 else c.op("Concat", parts, (outputs, kernel, channels), axis=1)
    return c.reshape(c.transpose(total, [0, 2, 1]), tuple(shape))


def _grouped_weight_gradient(
    c: Context, grad: LoweredValue, x: LoweredValue, shape: Sequence[Dim], geometry: Geometry
) -> LoweredValue:
    """As `_weight_gradient`, for each group by itself: one product with the groups as a batch of matrices."""
    batch, places, groups = grad.shape[0], numel(grad.shape[2:]), geometry.groups
    outputs, per_group = int(shape[0]), int(shape[1])
    rows = c.reshape(grad, (batch, groups, outputs // groups, places))
    shifted = _shifted(c, geometry.padded(c, x), grad, shape, geometry)
    parts = [c.reshape(part, (batch, groups, 1, per_group, places)) for part in shifted]
    kernel = len(parts)
    columns = parts[0] if kernel == 1 else c.op("Concat", parts, (batch, groups, kernel, per_group, places), axis=2)
    flat = c.reshape(columns, (batch, groups, kernel * per_group, places))
    product = c.op(
        "MatMul", [rows, c.transpose(flat, [0, 1, 3, 2])], (batch, groups, outputs // groups, kernel * per_group)
    )
    total = c.reshape(c.reduce("ReduceSum", product, [0]), (outputs, kernel, per_group))
    return c.reshape(c.transpose(total, [0, 2, 1]), tuple(shape))


def _shifted(
    c: Context, x: LoweredValue, grad: LoweredValue, shape: Sequence[Dim], geometry: Geometry
) -> list[LoweredValue]:
    """The padded input as each kernel offset sees it: at the output's places, in the order of the kernel's elements."""
    n = x.rank - 2
    sizes = [int(size) for size in grad.shape[2:]]
    parts = []
    for offset in itertools.product(*[range(int(size)) for size in shape[2:]]):
        starts = [o * d for o, d in zip(offset, geometry.dilation, strict=True)]
        ends = [begin + (size - 1) * s + 1 for begin, size, s in zip(starts, sizes, geometry.stride, strict=True)]
        inputs = [x, c.ints(starts), c.ints(ends), c.ints(range(2, 2 + n)), c.ints(geometry.stride)]
        parts.append(c.op("Slice", inputs, (*x.shape[:2], *sizes)))
    return parts


# -- normalization ---------------------------------------------------------------------------------------------------


@lowers("native_layer_norm.default")
def layer_norm(
    c: Context, x: LoweredValue, sizes: Sequence[int], weight: LoweredValue | None, bias: LoweredValue | None,
    eps: float,
) -> tuple[LoweredValue, LoweredValue, LoweredValue]:  # fmt: skip
    axes = list(range(x.rank - len(sizes), x.rank))
    spread, average = variance(c, x, axes, 0, True)
    scale = inverse_root(c, c.binary("Add", spread, eps, "float32"))
    normal = c.binary("Mul", c.binary("Sub", x, average, "float32"), scale, "float32")
    return _affine(c, normal, weight, bias), average, scale


def _affine(c: Context, x: LoweredValue, weight: LoweredValue | None, bias: LoweredValue | None) -> LoweredValue:
    if weight is not None:
        x = c.binary("Mul", x, weight, "float32")
    if bias is not None:
        x = c.binary("Add", x, bias, "float32")
    return x


@lowers("native_group_norm.default")
def group_norm(
    c: Context, x: LoweredValue, weight: LoweredValue | None, bias: LoweredValue | None, batch: Dim, channels: int,
    places: Dim, groups: int, eps: float,
) -> tuple[LoweredValue, LoweredValue, LoweredValue]:  # fmt: skip
    rows = c.reshape(x, (batch, groups, numel([channels // groups, places])))
    spread, average = variance(c, rows, [2], 0, True)
    scale = inverse_root(c, c.binary("Add", spread, eps, "float32"))
    normal = c.reshape(c.binary("Mul", c.binary("Sub", rows, average, "float32"), scale, "float32"), x.shape)
    per_channel = (channels, *([1] * (x.rank - 2)))
    weight = None if weight is None else c.reshape(weight, per_channel)
    bias = None if bias is None else c.reshape(bias, per_channel)
    return _affine(c, normal, weight, bias), c.reshape(average, (batch, groups)), c.reshape(scale, (batch, groups))


# -- softmax and losses ----------------------------------------------------------------------------------------------


def _register_softmax(name: str, op: str) -> None:
    @lowers(name)
    def softmax(c: Context, x: LoweredValue, axis: int, half_to_float: bool) -> LoweredValue:
        return c.op(op, [c.full(x)], c.shape, axis=axis % x.rank)


_register_softmax("_softmax.default", "Softmax")
_register_softmax("_log_softmax.default", "LogSoftmax")


@lowers("_softmax_backward_data.default")
def softmax_backward(c: Context, grad: LoweredValue, output: LoweredValue, axis: int, dtype: Any) -> LoweredValue:
    weighted = c.mul(grad, output)
    return c.binary("Sub", weighted, c.binary("Mul", output, c.reduce("ReduceSum", weighted, (axis,), keepdim=True)))


@lowers("_log_softmax_backward_data.default")
def log_softmax_backward(c: Context, grad: LoweredValue, output: LoweredValue, axis: int, dtype: Any) -> LoweredValue:
    node = c.graph.producer(output)
    if node is not None and node.op == "LogSoftmax":  # one softmax is cheaper than an exponential of the logarithm
        probability = c.op("Softmax", [c.graph.operand(node, 0)], output.shape, axis=axis % output.rank)
    else:
        probability = c.elementwise("Exp", [output], "float32")
    return c.binary("Sub", grad, c.binary("Mul", probability, c.reduce("ReduceSum", grad, (axis,), keepdim=True)))


def _hits(c: Context, logits: LoweredValue, target: LoweredValue, ignore: int) -> LoweredValue:
    """True at each target along axis 1; an ignored target has no true element."""
    axis = 1 if logits.rank > 1 else 0
    classes = logits.shape[axis]
    numbers = (
        c.graph.constant(list(range(classes)), "int64")
        if isinstance(classes, int)
        else c.op("Range", [c.number(bound, "int64") for bound in (0, classes, 1)], (classes,), "int64")
    )  # one class per example, as in contrastive losses
    if logits.rank > axis + 1:
        numbers = c.reshape(numbers, (classes, *([1] * (logits.rank - axis - 1))))
    column = c.reshape(target, (*target.shape[:axis], 1, *target.shape[axis:]))
    hit = c.elementwise("Equal", [c.cast(column, "int64"), numbers], "bool")
    if ignore >= 0 and not (isinstance(classes, int) and ignore >= classes):
        kept = c.elementwise("Not", [c.elementwise("Equal", [column, c.number(ignore, column.dtype)], "bool")], "bool")
        hit = c.elementwise("And", [hit, kept], "bool")
    return hit


def _class_weights(c: Context, logits: LoweredValue, hot: LoweredValue, weight: LoweredValue | None) -> LoweredValue:
    if weight is None:
        return hot
    axis = 1 if logits.rank > 1 else 0
    return c.binary("Mul", hot, c.reshape(weight, (weight.shape[0], *([1] * (logits.rank - axis - 1)))), "float32")


@lowers("nll_loss_forward.default", "nll_loss2d_forward.default")
def nll_loss(
    c: Context, logits: LoweredValue, target: LoweredValue, weight: LoweredValue | None, reduction: int, ignore: int
) -> tuple[LoweredValue, LoweredValue]:
    """The negative log-likelihood by a one-hot mask, without look-up and scatter; and the total weight."""
    c.graph.limit(target, logits.shape[1 if logits.rank > 1 else 0], ignore)
    hit = _hits(c, logits, target, ignore)
    hot = _class_weights(c, logits, c.cast(hit, "float32"), weight)
    # Not a product with ``hot``: logits of other classes can be -inf.
    picked = c.elementwise("Where", [hit, logits, c.number(0, "float32")], "float32")
    if weight is not None:
        picked = c.binary("Mul", picked, hot, "float32")
    if reduction == 0:
        axis = 1 if logits.rank > 1 else 0
        loss = c.elementwise("Neg", [c.reduce("ReduceSum", picked, [axis])], "float32")
        return loss, c.number(0, "float32")
    total = c.elementwise("Neg", [c.reduce("ReduceSum", picked, ())], "float32")
    counts_all = weight is None and ignore < 0 and c.graph.is_never_negative(target)
    if counts_all:
        count = c.number(numel(target.shape), "float32")
    else:  # the mean over no labels is 0, with gradients of 0; torch's loss would be NaN
        count = c.reduce("ReduceSum", hot, ())
        unlabelled = c.elementwise("Equal", [count, c.number(0, "float32")], "bool")
        count = c.elementwise("Where", [unlabelled, c.number(1, "float32"), count], "float32")
    return (c.binary("Div", total, count, "float32") if reduction == 1 else total), count


@lowers("nll_loss_backward.default", "nll_loss2d_backward.default")
def nll_loss_backward(
    c: Context, grad: LoweredValue, logits: LoweredValue, target: LoweredValue, weight: LoweredValue | None,
    reduction: int, ignore: int, total: LoweredValue,
) -> LoweredValue:  # fmt: skip
    hot = _class_weights(c, logits, c.cast(_hits(c, logits, target, ignore), "float32"), weight)
    scale = c.elementwise("Neg", [grad], "float32")
    if reduction == 0:
        axis = 1 if logits.rank > 1 else 0
        scale = c.reshape(scale, (*target.shape[:axis], 1, *target.shape[axis:]))
    elif reduction == 1:
        scale = c.binary("Div", scale, total, "float32")
    return c.binary("Mul", hot, scale, "float32")
