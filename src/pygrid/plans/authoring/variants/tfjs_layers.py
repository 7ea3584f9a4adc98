"""Convolutions and pools of images as tfjs commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pygrid.plans.authoring.variants.tfjs import Emission, emits
from pygrid.plans.authoring.variants.tfjs_graph import Value
from pygrid.plans.dialects.tfjs import with_defaults


@dataclass(frozen=True)
class _Window:
    """How a convolution moves over both axes of an image."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Sizes of both axes of an image."""
    return (int(sizes[0]), int(sizes[-1]))


def _check_image(x: Value, transposed: bool, groups: int) -> None:
    if len(x.shape) != 4 or transposed or groups != 1:
        raise ValueError("only Conv2d with groups=1 has a form in tfjs")


def _convolve(e: Emission, x: Value, kernel: Value, strides: Sequence[int], dilations: Sequence[int]) -> Value:
    """``conv2d`` of [N, H, W, C] with [h, w, C, O], without padding."""
    spread = [d * (k - 1) + 1 for d, k in zip(dilations, kernel.shape, strict=False)]
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], spread, strides, strict=True)]
    args = [e.graph.full(x), e.graph.full(kernel), tuple(strides), "valid", "NHWC", tuple(dilations)]
    return e.graph.call("conv2d", args, (x.shape[0], *sizes, kernel.shape[3]))


@emits("convolution.default")
def _convolution(e: Emission, x: Value, weight: Value, bias: Value | None, stride: Any, *options: Any) -> Value:
    padding, dilation, transposed, _, groups = options
    _check_image(x, transposed, groups)
    p, q = _pair(padding)
    nhwc = e.pad(e.transpose(x, 0, 2, 3, 1), [0, p, q, 0], [0, p, q, 0])
    result = _convolve(e, nhwc, e.transpose(weight, 2, 3, 1, 0), _pair(stride), _pair(dilation))
    if bias is not None:
        result = e.graph.elementwise("add", [result, bias], result.shape, "float32")
    return e.graph.transpose(result, [0, 3, 1, 2])


@emits("convolution_backward.default")
def _convolution_backward(
    e: Emission, grad: Value, x: Value, weight: Value, *options: Any
) -> tuple[Value | None, Value | None, Value | None]:
    _, stride, padding, dilation, transposed, _, groups, output_mask = options
    _check_image(x, transposed, groups)
    window = _Window(_pair(stride), _pair(padding), _pair(dilation))
    grad_nhwc = e.transpose(grad, 0, 2, 3, 1)
    grad_x = grad_w = grad_b = None
    if output_mask[0]:
        grad_x = _input_gradient(e, grad_nhwc, x, weight, window)
    if output_mask[1]:
        grad_w = _weight_gradient(e, grad, x, weight, window)
    if output_mask[2]:
        grad_b = e.reduce("sum", grad_nhwc, [0, 1, 2], False)
    return grad_x, grad_w, grad_b


def _input_gradient(e: Emission, grad: Value, x: Value, weight: Value, window: _Window) -> Value:
    if window.dilation != (1, 1):
        raise ValueError("the gradient of a dilated convolution has no form in tfjs")
    batch, channels, height, width = x.shape
    p, q = window.padding
    shape = (batch, height + 2 * p, width + 2 * q, channels)
    kernel = e.transpose(weight, 2, 3, 1, 0)
    wide = e.graph.call("conv2dTranspose", [e.graph.full(grad), kernel, shape, window.stride, "valid"], shape)
    inner = e.slice(wide, [0, p, q, 0], [batch, height, width, channels])
    return e.graph.transpose(inner, [0, 3, 1, 2])


def _weight_gradient(e: Emission, grad: Value, x: Value, weight: Value, window: _Window) -> Value:
    """A convolution of the inputs with the gradient: channels take the place of examples, and examples of channels."""
    p, q = window.padding
    images = e.pad(e.transpose(x, 1, 2, 3, 0), [0, p, q, 0], [0, p, q, 0])
    kernel = e.transpose(grad, 2, 3, 0, 1)
    wide = _convolve(e, images, kernel, window.dilation, window.stride)
    outputs, channels, rows, columns = weight.shape
    exact = e.slice(wide, [0, 0, 0, 0], [channels, rows, columns, outputs])
    return e.graph.transpose(exact, [3, 0, 1, 2])


@emits("max_pool2d_with_indices.default")
def _max_pool(e: Emission, x: Value, kernel: Any, *options: Any) -> tuple[Value, Value]:
    """The maxima, and for each the number of its place in the window."""
    stride, padding, dilation, ceil_mode = with_defaults(options, (), (0, 0), (1, 1), False)
    _check_pool(kernel, stride, padding, ceil_mode or _pair(dilation) != (1, 1))
    windows = _windows(e, x, kernel)
    shape = windows.shape[:3]
    highest = e.graph.call("max", [windows, (3,), False], shape)
    places = e.graph.call("argMax", [windows, 3], shape, "int32")
    return e.graph.reshape(highest, e.shape), places


def _check_pool(kernel: Any, stride: Any, padding: Any, is_special: bool) -> None:
    if is_special or (stride and _pair(stride) != _pair(kernel)) or any(padding):
        raise ValueError("only a pool with its kernel as stride and without padding has a form in tfjs")


def _windows(e: Emission, x: Value, kernel: Any) -> Value:
    """The places of each window in the last axis: [N * C, H / h, W / w, h * w]."""
    if len(x.shape) != 4:
        raise ValueError("only a pool of images [N, C, H, W] has a form in tfjs")
    h, w = _pair(kernel)
    batch, channels, height, width = x.shape
    rows, columns = height // h, width // w
    inner = e.slice(x, [0, 0, 0, 0], [batch, channels, rows * h, columns * w])
    split = e.graph.reshape(inner, (batch * channels, rows, h, columns, w))
    moved = e.graph.full(e.graph.transpose(split, [0, 1, 3, 2, 4]))
    return e.graph.reshape(moved, (batch * channels, rows, columns, h * w))


@emits("max_pool2d_with_indices_backward.default")
def _max_pool_backward(e: Emission, grad: Value, x: Value, kernel: Any, *options: Any) -> Value:
    places: Value = options[-1]
    h, w = _pair(kernel)
    batch, channels, height, width = x.shape
    images, rows, columns = places.shape
    hot = e.one_hot(places, h * w)
    spread = e.graph.elementwise("mul", [hot, e.graph.reshape(grad, (images, rows, columns, 1))], hot.shape, "float32")
    split = e.graph.reshape(spread, (images, rows, columns, h, w))
    moved = e.graph.full(e.graph.transpose(split, [0, 1, 3, 2, 4]))
    inner = e.graph.reshape(moved, (batch, channels, rows * h, columns * w))
    return e.pad(inner, [0, 0, 0, 0], [0, 0, height - rows * h, width - columns * w])


@emits("avg_pool2d.default")
def _average_pool(e: Emission, x: Value, kernel: Any, *options: Any) -> Value:
    stride, padding, ceil_mode, _, divisor = with_defaults(options, (), (0, 0), False, True, None)
    _check_pool(kernel, stride, padding, ceil_mode or divisor is not None)
    windows = _windows(e, x, kernel)
    return e.graph.reshape(e.graph.call("mean", [windows, (3,), False], windows.shape[:3]), e.shape)


@emits("avg_pool2d_backward.default")
def _average_pool_backward(e: Emission, grad: Value, x: Value, kernel: Any, *options: Any) -> Value:
    stride, padding, ceil_mode, _, divisor = options
    _check_pool(kernel, stride, padding, ceil_mode or divisor is not None)
    h, w = _pair(kernel)
    batch, channels, height, width = x.shape
    rows, columns = height // h, width // w
    share = e.graph.elementwise("mul", [grad, e.graph.number(1 / (h * w), (), "float32")], grad.shape, "float32")
    tall = e.graph.reshape(share, (batch * channels, rows, 1, columns, 1))
    wide = e.graph.call("broadcastTo", [e.graph.full(tall), (batch * channels, rows, h, columns, w)],
                        (batch * channels, rows, h, columns, w))  # fmt: skip
    inner = e.graph.reshape(wide, (batch, channels, rows * h, columns * w))
    return e.pad(inner, [0, 0, 0, 0], [0, 0, height - rows * h, width - columns * w])
