"""Products, convolutions and pooling, with their costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pygrid.plans.operators.values import OperatorCall, ShapeRefused, TensorValue, broadcast, check_equal, same_dtype
from pygrid.plans.sizes import Size, divide


def infer_matmul(call: OperatorCall) -> list[TensorValue]:
    a, b = call.get(0), call.get(1)
    if not a.shape or not b.shape:
        raise ShapeRefused("a product needs at least one dimension")
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    check_equal(left[-1], right[-2], "the sizes that are summed over")
    shape = [*broadcast(left[:-2] or (), right[:-2] or ())] if len(left) > 2 or len(right) > 2 else []
    if len(a.shape) > 1:
        shape.append(left[-2])
    if len(b.shape) > 1:
        shape.append(right[-1])
    return [TensorValue(same_dtype([a, b]), tuple(shape))]


def matmul_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    return 2 * outputs[0].num_elements * call.get(0).shape[-1]


def infer_gemm(call: OperatorCall) -> list[TensorValue]:
    a, b = call.get(0), call.get(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ShapeRefused("Gemm takes matrices")
    rows, inner = a.shape[::-1] if call.attributes.get("transA", 0) else a.shape
    inner_b, columns = b.shape[::-1] if call.attributes.get("transB", 0) else b.shape
    check_equal(inner, inner_b, "the sizes that are summed over")
    bias = call.find(2)
    if bias is not None and broadcast((rows, columns), bias.shape) != (rows, columns):
        raise ShapeRefused("the third input is larger than the product")
    return [TensorValue(same_dtype([v for v in call.inputs if v is not None]), (rows, columns))]


def gemm_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    inner = call.get(0).shape[0 if call.attributes.get("transA", 0) else 1]
    return outputs[0].num_elements * (2 * inner + 1)


def _spatial(sizes: Sequence[Size]) -> list[int]:
    ints = [size for size in sizes if isinstance(size, int)]
    if len(ints) != len(sizes):
        raise ShapeRefused("an image side must not depend on the batch size")
    return ints


def _window(call: OperatorCall, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads (all begins, then all ends) of a convolution or pooling."""
    if call.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise ShapeRefused("auto_pad is not allowed; set the pads instead")
    strides = list(call.attributes.get("strides", [1] * rank))
    dilations = list(call.attributes.get("dilations", [1] * rank))
    pads = list(call.attributes.get("pads", [0] * (2 * rank)))
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise ShapeRefused("strides, dilations or pads have the wrong length")
    if min(strides) < 1 or min(dilations) < 1 or min(pads) < 0:
        raise ShapeRefused("strides and dilations must be at least 1, pads at least 0")
    return strides, dilations, pads


def _slide(sides: Sequence[int], kernel: Sequence[int], call: OperatorCall) -> list[int]:
    rank = len(sides)
    strides, dilations, pads = _window(call, rank)
    out = []
    for i in range(rank):
        span = sides[i] + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1
        if span < 0 or kernel[i] < 1:
            raise ShapeRefused("the window is larger than the padded image")
        out.append(span // strides[i] + 1)
    return out


def _conv_parts(call: OperatorCall) -> tuple[TensorValue, TensorValue, int, list[int]]:
    x, w = call.get(0), call.get(1)
    if len(x.shape) < 3 or len(w.shape) != len(x.shape):
        raise ShapeRefused("a convolution takes [batch, channels, ...] and a kernel with the same number of dimensions")
    group = int(call.attributes.get("group", 1))
    if group < 1:
        raise ShapeRefused("group must be at least 1")
    return x, w, group, _spatial(w.shape[2:])


def _check_bias(call: OperatorCall, channels: Size) -> None:
    """ONNX Runtime reads beyond the end of a bias that is too short: bytes of whatever lies there in memory."""
    bias = call.find(2)
    if bias is not None and bias.shape != (channels,):
        raise ShapeRefused(f"the bias has shape {[str(size) for size in bias.shape]}, not [{channels}]")


def infer_conv(call: OperatorCall) -> list[TensorValue]:
    x, w, group, kernel = _conv_parts(call)
    check_equal(x.shape[1], w.shape[1] * group, "the channels of image and kernel")
    if divide(w.shape[0], group) is None:
        raise ShapeRefused("the output channels are not a multiple of the groups")
    _check_bias(call, w.shape[0])
    return [TensorValue(same_dtype([x, w]), (x.shape[0], w.shape[0], *_slide(_spatial(x.shape[2:]), kernel, call)))]


def conv_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    _, w, _, kernel = _conv_parts(call)
    return outputs[0].num_elements * (2 * w.shape[1] * math.prod(kernel) + 1)


def infer_conv_transpose(call: OperatorCall) -> list[TensorValue]:
    x, w, group, kernel = _conv_parts(call)
    check_equal(x.shape[1], w.shape[0], "the channels of image and kernel")
    sides = _spatial(x.shape[2:])
    strides, dilations, pads = _window(call, len(sides))
    extra = list(call.attributes.get("output_padding", [0] * len(sides)))
    if "output_shape" in call.attributes or len(extra) != len(sides):
        raise ShapeRefused("output_shape is not allowed; set output_padding for each side")
    if any(more >= stride for more, stride in zip(extra, strides, strict=True)):
        # Some versions of ONNX Runtime then add to what was in the memory of the output: values of another record.
        raise ShapeRefused("output_padding must be smaller than the stride")
    out = [
        strides[i] * (sides[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[len(sides) + i]
        for i in range(len(sides))
    ]
    if min(out) < 0 or min(extra) < 0:
        raise ShapeRefused("the pads are larger than the image")
    _check_bias(call, w.shape[1] * group)
    return [TensorValue(same_dtype([x, w]), (x.shape[0], w.shape[1] * group, *out))]


def conv_transpose_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    x, w, _, kernel = _conv_parts(call)
    return x.num_elements * (2 * w.shape[1] * math.prod(kernel)) + outputs[0].num_elements


def infer_pool(call: OperatorCall) -> list[TensorValue]:
    x = call.get(0)
    kernel = list(call.attributes.get("kernel_shape", []))
    if len(x.shape) < 3 or len(kernel) != len(x.shape) - 2:
        raise ShapeRefused("pooling takes [batch, channels, ...] and a kernel side for each further dimension")
    if call.attributes.get("ceil_mode", 0) or call.attributes.get("storage_order", 0):
        raise ShapeRefused("ceil_mode and storage_order must be 0")
    shape = (*x.shape[:2], *_slide(_spatial(x.shape[2:]), kernel, call))
    return [TensorValue(x.dtype, shape), TensorValue("int64", shape)][: call.num_outputs]


def pool_cost(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    kernel: list[int] = list(call.attributes.get("kernel_shape", []))
    return outputs[0].num_elements * math.prod(kernel)


def infer_global_pool(call: OperatorCall) -> list[TensorValue]:
    x = call.get(0)
    if len(x.shape) < 3:
        raise ShapeRefused("pooling takes [batch, channels, ...]")
    return [TensorValue(x.dtype, (*x.shape[:2], *([1] * (len(x.shape) - 2))))]


def conv_scratch(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    """The unfolded windows of one image, as in im2col."""
    _, w, _, kernel = _conv_parts(call)
    return w.shape[1] * math.prod(kernel) * math.prod(outputs[0].shape[2:])


def conv_transpose_scratch(call: OperatorCall, outputs: Sequence[TensorValue]) -> Size:
    x, w, _, kernel = _conv_parts(call)
    return w.shape[1] * math.prod(kernel) * math.prod(x.shape[2:])
