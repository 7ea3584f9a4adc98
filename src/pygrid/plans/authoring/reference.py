"""What torch computes for a program, and what a finished graph computes in float64: the two sides of the self-check.

A gradient through batch norm over few examples can lose all digits of float32, in torch as well as in ONNX Runtime. In
float64 the same gradient keeps ten. So torch and the graph are compared in float64, where only a fault of the exporter
makes a difference. `GraphInDoubles` evaluates a graph with ONNX's own reference implementation, and with torch's
kernels for operators that are slow there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from pygrid.plans.authoring.diagnostics import quiet
from pygrid.plans.authoring.emit import Emitted
from pygrid.plans.authoring.interception import Interception
from pygrid.plans.authoring.tracing import Arrays, GivenNoise, Program

Feed = dict[str, npt.NDArray[np.generic]]


# -- torch -----------------------------------------------------------------------------------------------------------


def eager(program: Program, feed: Feed) -> Arrays:
    """The outputs of the program in eager torch, with torch's own layers and the same dropout noise."""
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}
    noise = [arrays.pop(name) for name in list(arrays) if name.startswith("noise/")]
    given = GivenNoise(noise, program.noise_axes) if program.may_draw else None
    with quiet(), Interception(given, tracing=False, dropout=program.dropout):
        return program.run(arrays)


def eager_in_doubles(program: Program, feed: Feed) -> Arrays:
    """As `eager`, with float64 wherever the program has float32."""
    with _float64_by_default(), _Doubles():
        return eager(program, in_doubles(feed))


def in_doubles(feed: Feed) -> Feed:
    return {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feed.items()}


class _Doubles(TorchFunctionMode):  # type: ignore[misc]
    """Calls every torch function with float64 in place of float32: tensors, and dtypes that the code names."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(_wide, (args, kwargs or {}))
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        if func is torch.rms_norm:
            return _rms_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Without an epsilon, torch takes that of the dtype; the program has float32."""
    return torch.rms_norm(x, shape, weight, torch.finfo(torch.float32).eps if eps is None else eps)


def _wide(item: Any) -> Any:
    if item is torch.float32:
        return torch.float64
    if isinstance(item, torch.Tensor) and item.dtype == torch.float32:
        return item.double()
    return item


@contextlib.contextmanager
def _float64_by_default() -> Iterator[None]:
    """New tensors are float64; `torch.finfo` describes float32, because programs take their epsilon from it."""
    finfo, dtype = torch.finfo, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.finfo = lambda *_: finfo(torch.float32)
    try:
        yield
    finally:
        torch.finfo = finfo
        torch.set_default_dtype(dtype)


# -- the graph -------------------------------------------------------------------------------------------------------


class GraphInDoubles:
    """A finished graph in which every float32 is a float64."""

    def __init__(self, graph: Emitted, *, moved: float = 0.0) -> None:
        """Prepare to evaluate a graph.

        Args:
            moved: relative change of each stored constant whose exact number is not known, in turn up and down.
        """
        model = onnx.load_from_string(graph.data)
        self.is_exact = True
        """Whether each stored number is known as it was before it was rounded to float32."""
        for tensor in model.graph.initializer:
            if tensor.data_type != TensorProto.FLOAT:
                continue
            array = numpy_helper.to_array(tensor).astype(np.float64)
            exact = graph.exact.get(tensor.name)
            if exact is not None and (array == np.float32(exact)).all():
                array = np.full(array.shape, exact)
            elif not np.array_equal(array, np.round(array)):
                self.is_exact = False
                array *= 1.0 + moved * np.where(np.arange(array.size).reshape(array.shape) % 2, -1.0, 1.0)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                    attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
                elif node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE
        for info in (*model.graph.input, *model.graph.output):
            if info.type.tensor_type.elem_type == TensorProto.FLOAT:
                info.type.tensor_type.elem_type = TensorProto.DOUBLE
        self._evaluator = ReferenceEvaluator(model, new_ops=_KERNELS)

    def run(self, outputs: Sequence[str], feed: Feed) -> list[npt.NDArray[np.generic]]:
        """The named outputs, as new arrays. An intermediate array is dropped after its last use."""
        evaluator = self._evaluator
        values: dict[str, Any] = {"": None, **evaluator.rt_inits_, **in_doubles(feed)}
        last_use = {name: index for index, node in enumerate(evaluator.rt_nodes_) for name in node.input}
        with np.errstate(all="ignore"):
            for index, node in enumerate(evaluator.rt_nodes_):
                results = node.run(*[values[name] for name in node.input])
                values.update(zip(node.output, results, strict=False))
                for name in {*node.input, *node.output} - {"", *outputs}:
                    if last_use.get(name, index) <= index:
                        values.pop(name, None)
        return [np.asarray(values[name]) for name in outputs]


def _torch(array: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=("C", "W", "A")))


def _kernel(name: str, function: Callable[..., Any]) -> type[OpRun]:
    """A function on tensors and attributes as the implementation of an operator."""

    def run(self: OpRun, *inputs: Any, **attributes: Any) -> tuple[npt.NDArray[np.generic], ...]:
        tensors = [None if array is None else _torch(array) for array in inputs]
        result = function(*tensors, **{name: value for name, value in attributes.items() if value is not None})
        return tuple(part.numpy() for part in (result if isinstance(result, tuple) else (result,)))

    return type(name, (OpRun,), {"_run": run})


def _by_rank(name: str, x: torch.Tensor) -> Callable[..., Any]:
    """The function of torch for the number of axes after the first two."""
    return getattr(F, f"{name}{x.dim() - 2}d")  # type: ignore[no-any-return]


def _padded(x: torch.Tensor, pads: Sequence[int], number: float = 0.0) -> torch.Tensor:
    """The array with ONNX's padding (all begins, then all ends); negative padding cuts off."""
    n = x.dim() - 2
    return F.pad(x, [side for axis in reversed(range(n)) for side in (pads[axis], pads[n + axis])], value=number)


def _conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **given: Any) -> torch.Tensor:
    x = _padded(x, given["pads"]) if "pads" in given else x
    convolve = _by_rank("conv", x)
    result: torch.Tensor = convolve(
        x, weight, bias, given.get("strides", 1), 0, given.get("dilations", 1), given.get("group", 1)
    )
    return result


def _conv_transpose(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **given: Any
) -> torch.Tensor:
    n = x.dim() - 2
    pads, extra = given.get("pads", [0] * 2 * n), given.get("output_padding", [0] * n)
    full = _by_rank("conv_transpose", x)(
        x, weight, None, given.get("strides", 1), 0, 0, given.get("group", 1), given.get("dilations", 1)
    )
    result = _padded(full, [*(-p for p in pads[:n]), *(e - p for e, p in zip(extra, pads[n:], strict=True))])
    return result if bias is None else result + bias.reshape(-1, *[1] * n)


def _max_pool(x: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    n, kernel = x.dim() - 2, given["kernel_shape"]
    pads = given.get("pads", [0] * 2 * n)
    places = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
    wide, wide_places = _padded(x, pads, float("-inf")), _padded(places, pads)
    strides, dilations = given.get("strides", [1] * n), given.get("dilations", [1] * n)
    values, found = _by_rank("max_pool", x)(
        wide, kernel, strides, 0, dilations, bool(given.get("ceil_mode")), return_indices=True
    )
    return values, wide_places.flatten(2).gather(2, found.flatten(2)).reshape(found.shape).long()


def _average_pool(x: torch.Tensor, **given: Any) -> torch.Tensor:
    """The mean of the padded array, divided by the mean of ones at the places that count."""
    n = x.dim() - 2
    pads = given.get("pads", [0] * 2 * n)
    pool, strides = _by_rank("avg_pool", x), given.get("strides", [1] * n)
    counted = _padded(torch.ones_like(x), pads, float(given.get("count_include_pad", 0)))
    means = [
        pool(array, given["kernel_shape"], strides, 0, bool(given.get("ceil_mode")))
        for array in (_padded(x, pads), counted)
    ]
    return means[0] / means[1]


def _scatter(data: torch.Tensor, index: torch.Tensor, updates: torch.Tensor, **given: Any) -> torch.Tensor:
    axis = given.get("axis", 0)
    index = torch.where(index < 0, index + data.shape[axis], index)
    reduction = given.get("reduction", "none")
    if reduction == "none":
        return data.scatter(axis, index, updates)
    torch_names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return data.scatter_reduce(axis, index, updates, torch_names[reduction])


def _gather(data: torch.Tensor, index: torch.Tensor, axis: int = 0) -> torch.Tensor:
    return data.gather(axis, torch.where(index < 0, index + data.shape[axis], index))


_KERNELS = [
    _kernel("Conv", _conv),
    _kernel("ConvTranspose", _conv_transpose),
    _kernel("MaxPool", _max_pool),
    _kernel("AveragePool", _average_pool),
    _kernel("GatherElements", _gather),
    _kernel("ScatterElements", _scatter),
    _kernel("Erf", torch.special.erf),
    _kernel("LogSoftmax", lambda x, axis=-1: torch.log_softmax(x, axis)),
]
