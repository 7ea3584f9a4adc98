"""Pooling in one to three dimensions, with its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.lowering.core import Context, lowers, numel
from pygrid.plans.authoring.lowering.graph import LoweredValue
from pygrid.plans.authoring.lowering.layers import Geometry, input_gradient, spatial


@dataclass(frozen=True)
class _Windows:
    """The windows of a pooling layer; one number per axis.

    Windows that stick out at the end of an axis (``ceil_mode``) see padding there, so a graph needs no rounding mode.
    """

    sizes: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    after: tuple[int, ...]
    """Padding at the end of each axis."""

    @classmethod
    def of(cls, x: LoweredValue, outputs: Sequence[Any], rank: int, *options: Sequence[int]) -> _Windows:
        """The windows over the last ``rank`` axes of ``x``, which lead to ``outputs``.

        Args:
            options: kernel, stride, padding and, if it is not 1, dilation, as torch takes them.
        """
        sizes = tuple(int(size) for size in x.shape[-rank:])
        results = tuple(int(size) for size in outputs[-rank:])
        kernel, stride, padding, dilation = (
            tuple(spatial(option or options[0], rank)) for option in (*options, (1,))[:4]
        )
        reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(results, stride, dilation, kernel, strict=True)]
        after = tuple(max(p, end - p - size) for p, end, size in zip(padding, reach, sizes, strict=True))
        for pad, side in zip(after, kernel, strict=True):
            if pad >= side:
                raise AuthoringError(
                    f"pooling with dilation {list(dilation)} and {pad} places of padding behind an axis is not in the "
                    f"plan set: less than the kernel's {side} is; use ceil_mode=False, or F.pad before the pooling",
                    code=codes.PLAN_OPERATOR_UNSUPPORTED,
                )
        return cls(sizes, results, kernel, stride, padding, dilation, after)

    @property
    def attributes(self) -> dict[str, Any]:
        return {"kernel_shape": list(self.kernel), "strides": list(self.stride), "pads": [*self.padding, *self.after]}


# -- the largest element ---------------------------------------------------------------------------------------------


@lowers("max_pool2d_with_indices.default", "max_pool3d_with_indices.default")
def max_pool(
    c: Context, x: LoweredValue, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> tuple[LoweredValue, LoweredValue]:  # fmt: skip
    n = 3 if "max_pool3d" in str(c.node.target) else 2
    x = c.full(x)
    images = x if x.rank == n + 2 else c.reshape(x, (1, *x.shape))
    windows = _Windows.of(x, c.shape, n, kernel, stride, padding, dilation)
    shape = c.shape if x.rank == n + 2 else (1, *c.shape)
    values, indices = c.graph.multi(
        "MaxPool",
        [images],
        [(shape, None), (shape, "int64")],
        dilations=list(windows.dilation),
        ceil_mode=0,
        **windows.attributes,
    )
    # ONNX counts places in the whole array, torch in one plane.
    plane = c.number(numel(x.shape[-n:]), "int64")
    local = c.elementwise("Mod", [indices, plane], "int64")
    return c.reshape(values, c.shape), c.reshape(local, c.shape)


@lowers("max_pool2d_with_indices_backward.default", "max_pool3d_with_indices_backward.default")
def max_pool_backward(c: Context, grad: LoweredValue, x: LoweredValue, *args: Any) -> LoweredValue:
    n = 3 if "max_pool3d" in str(c.node.target) else 2
    indices: LoweredValue = args[-1]
    grad = c.full(grad)
    places, outputs = numel(x.shape[-n:]), numel(grad.shape[-n:])
    lead = numel(x.shape[:-n])
    start = c.graph.expand_to(c.number(0, "float32"), (lead, places))
    flat = [start, c.reshape(indices, (lead, outputs)), c.reshape(grad, (lead, outputs))]
    return c.reshape(c.op("ScatterElements", flat, (lead, places), axis=1, reduction="add"), x.shape)


# -- the average -----------------------------------------------------------------------------------------------------


def _corrections(
    c: Context, windows: _Windows, *, count_include_pad: bool, divisor: int | None
) -> list[LoweredValue | float]:
    """Factors by which the average over whole kernels, padding included, becomes that of torch.

    Along each axis, torch divides by the places of the window that lie on the array, or on the array and its own
    padding; never by those that ``ceil_mode`` added.
    """
    if divisor:
        return [] if divisor == math.prod(windows.kernel) else [math.prod(windows.kernel) / divisor]
    factors: list[LoweredValue | float] = []
    for axis, (size, out, k, s, p) in enumerate(
        zip(windows.sizes, windows.outputs, windows.kernel, windows.stride, windows.padding, strict=True)
    ):
        begins = np.arange(out) * s - p
        low, high = (-p, size + p) if count_include_pad else (0, size)
        counts = np.minimum(begins + k, high) - np.maximum(begins, low)
        if (counts != k).any():
            column = (k / counts).astype(np.float32).reshape(-1, *([1] * (len(windows.kernel) - 1 - axis)))
            factors.append(c.graph.constant(column))
    return factors


@lowers("avg_pool2d.default", "avg_pool1d.default", "avg_pool3d.default")
def avg_pool(
    c: Context, x: LoweredValue, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> LoweredValue:  # fmt: skip
    n = _dimensions(c, x)
    windows = _Windows.of(x, c.shape, n, kernel, stride, padding)
    x = c.full(x)
    images = x if x.rank == n + 2 else c.reshape(x, (1, *x.shape))
    shape = (*images.shape[:2], *windows.outputs)
    result = c.op("AveragePool", [images], shape, count_include_pad=1, **windows.attributes)
    result = c.reshape(result, c.shape)
    for factor in _corrections(c, windows, count_include_pad=count_include_pad, divisor=divisor_override):
        result = c.mul(result, factor)
    return result


def _dimensions(c: Context, x: LoweredValue) -> int:
    name = str(c.node.target)
    return next((n for n in (1, 2, 3) if f"pool{n}d" in name), x.rank - 2)


@lowers("avg_pool2d_backward.default", "avg_pool3d_backward.default")
def avg_pool_backward(
    c: Context, grad: LoweredValue, x: LoweredValue, kernel: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], ceil_mode: bool, count_include_pad: bool, divisor_override: int | None,
) -> LoweredValue:  # fmt: skip
    """A transposed convolution, channel by channel, with a kernel of equal weights."""
    n = _dimensions(c, x)
    grad = c.full(grad)
    windows = _Windows.of(x, grad.shape, n, kernel, stride, padding)
    for factor in _corrections(c, windows, count_include_pad=count_include_pad, divisor=divisor_override):
        grad = c.mul(grad, factor)
    planes = numel(x.shape[:-n])
    weight = c.graph.expand_to(c.number(1.0 / math.prod(windows.kernel), "float32"), (1, 1, *windows.kernel))
    flat_x, flat_grad = c.reshape(x, (planes, 1, *windows.sizes)), c.reshape(grad, (planes, 1, *windows.outputs))
    geometry = Geometry(windows.stride, [*windows.padding, *windows.after], [1] * n, 1)
    result = input_gradient(c, flat_grad, flat_x, weight, geometry)
    return c.reshape(result, x.shape)


@lowers("_adaptive_avg_pool2d.default", "_adaptive_avg_pool3d.default", "adaptive_avg_pool1d.default")
def adaptive_avg_pool(c: Context, x: LoweredValue, sizes: Sequence[int]) -> LoweredValue:
    n = len(sizes)
    if all(size == 1 for size in sizes):
        return c.reduce("ReduceMean", x, list(range(x.rank - n, x.rank)), keepdim=True)
    kernel = _equal_windows(x, sizes)
    if kernel is not None:
        return avg_pool(c, x, kernel)
    for axis in range(x.rank - n, x.rank):
        x = _multiplied(c, x, axis, _window_matrix(int(x.shape[axis]), int(c.shape[axis])))
    return x


@lowers("_adaptive_avg_pool2d_backward.default", "_adaptive_avg_pool3d_backward.default")
def adaptive_avg_pool_backward(c: Context, grad: LoweredValue, x: LoweredValue) -> LoweredValue:
    n = _dimensions(c, x)
    kernel = _equal_windows(x, grad.shape[-n:])
    if kernel is not None:
        return avg_pool_backward(c, grad, x, kernel, kernel, [0], False, True, None)
    for axis in range(x.rank - n, x.rank):
        grad = _multiplied(c, grad, axis, _window_matrix(int(x.shape[axis]), int(grad.shape[axis])).T)
    return grad


def _equal_windows(x: LoweredValue, sizes: Sequence[Any]) -> list[int] | None:
    """The kernel, if all windows are equal."""
    given = [int(size) for size in x.shape[x.rank - len(sizes) :]]
    if any(size % int(out) for size, out in zip(given, sizes, strict=True)):
        return None
    return [size // int(out) for size, out in zip(given, sizes, strict=True)]


def _window_matrix(size: int, outputs: int) -> npt.NDArray[np.float32]:
    """``[size, outputs]``: the share of each element of an axis in the average of each window.

    Window i reaches from ``floor(i * size / outputs)`` to ``ceil((i + 1) * size / outputs)``.
    """
    matrix = np.zeros((size, outputs), np.float32)
    for i in range(outputs):
        begin, end = i * size // outputs, -(-(i + 1) * size // outputs)
        matrix[begin:end, i] = 1 / (end - begin)
    return matrix


def _multiplied(c: Context, x: LoweredValue, axis: int, matrix: npt.NDArray[np.float32]) -> LoweredValue:
    """The array with ``matrix [before, after]`` applied along one axis."""
    order = [*(i for i in range(x.rank) if i != axis), axis]
    moved = c.transpose(x, order)
    product = c.op("MatMul", [moved, c.graph.constant(matrix)], (*moved.shape[:-1], matrix.shape[1]))
    return c.transpose(product, [int(i) for i in np.argsort(order)])
