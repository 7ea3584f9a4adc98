"""The ``predict`` program of a plan: what the model returns from data, in evaluation mode.

A plan gets it without the author's help: while the loss is traced for ``eval``, `first_result` keeps what its model
returns. The author can write a function instead (``predict=`` of `pygrid.plan`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import fx

from pygrid.plans.authoring.tracing import Arrays, Program, Trace

PREDICT = "predict"
PREDICTIONS = "predictions"
"""Prefix of the outputs."""
_ONE = "output"
"""Name of a single output."""


@contextlib.contextmanager
def first_result(model: torch.nn.Module) -> Iterator[Arrays]:
    """The outputs of the ``predict`` program, filled when the model is first called inside the block."""
    found: Arrays = {}

    def keep(module: torch.nn.Module, args: Any, result: Any) -> None:
        if not found:
            found.update(prediction_outputs(result))

    handle = model.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def prediction_outputs(result: Any) -> Arrays:
    """The arrays in a result, by name of output: ``output`` for one array, keys of dicts, positions in tuples."""
    # Copies: the loss may change its model's result in place.
    return {f"{PREDICTIONS}/{name}": array.detach().clone() for name, array in _leaves(result, "")}


def _leaves(result: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(result, torch.Tensor):
        yield name or _ONE, result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from _leaves(value, _joined(name, str(key)))
    elif isinstance(result, tuple | list):
        names = getattr(result, "_fields", range(len(result)))
        for key, value in zip(names, result, strict=True):
            yield from _leaves(value, _joined(name or _ONE, str(key)))
    elif dataclasses.is_dataclass(result):
        yield from _leaves({field.name: getattr(result, field.name) for field in dataclasses.fields(result)}, name)


def _joined(name: str, part: str) -> str:
    part = re.sub(r"[^A-Za-z0-9_.\-]", "_", part) or "_"
    return f"{name}.{part}" if name else part


def narrowed(program: Program, traced: Trace) -> Program | None:
    """A ``predict`` program with the outputs that have a row for each example, and the data that they need.

    None: there is no such output.
    """
    results = dict(zip(traced.outputs, traced.module.graph.output_node().args[0], strict=True))
    kept = {
        name: node
        for name, node in results.items()
        if name.startswith(f"{PREDICTIONS}/") and isinstance(node, fx.Node) and _is_by_example(node, traced.symbol)
    }
    needed = _inputs_of(kept.values(), traced)
    inputs = tuple(
        port for port in program.inputs if port.name in needed or not port.name.startswith(("data/", "hyper/"))
    )
    if not any(port.name.startswith("data/") for port in inputs):
        return None
    return dataclasses.replace(program, inputs=inputs, outputs=tuple(kept))


def _is_by_example(node: fx.Node, symbol: sympy.Symbol) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.dim():
        return False
    first, *others = value.shape
    return isinstance(first, torch.SymInt) and first.node.expr == symbol and all(type(size) is int for size in others)


def _inputs_of(results: Iterable[fx.Node], traced: Trace) -> set[str]:
    """Names of the inputs whose values the results need; an input that only says the batch size does not count."""
    waiting, seen = list(results), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node in seen or isinstance(node.meta.get("val"), torch.SymInt):
            continue
        seen.add(node)
        waiting += node.all_input_nodes
    places = [node for node in traced.module.graph.nodes if node.op == "placeholder"]
    return {port.name for port, node in zip(traced.inputs, places, strict=True) if node in seen}


def call_forward(model: torch.nn.Module, *args: torch.Tensor) -> Any:
    """The result of the model, as the function of a ``predict`` program."""
    return model(*args)


def columns_of_forward(model: torch.nn.Module, data: Iterable[str]) -> tuple[str, ...] | None:
    """The data for the arguments of ``model.forward``, by name, or the first column for a single argument."""
    names = list(data)
    needed = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needed and set(needed) <= set(names):
        return tuple(needed)
    return (names[0],) if len(needed) == 1 else None
