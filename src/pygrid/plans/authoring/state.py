"""Finds state of a model that a plan would not keep: attributes that ``forward`` changes.

A plan is one graph, recorded once. It keeps what is in float32 buffers of the checkpoint. A counter (``self.step +=
1``), a tensor that is not a buffer, or an integer buffer would silently stay at its first value. Values that are only
stored for somebody to read, and caches that always hold the same, do no harm.
"""

from __future__ import annotations

import copy
import inspect
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pygrid.plans.authoring.diagnostics import SourceLocation, is_author_file

_BOOKKEEPING = re.compile(
    r"training|_parameters|_buffers|_modules|_is_hf_initialized|.*_hooks.*|_non_persistent_buffers_set|_flat_weight.*"
)
"""Attributes that torch itself keeps for each module."""

_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)


@dataclass(frozen=True)
class AttributeChange:
    """An attribute that a call changed."""

    owner: str
    """Path of the module in the model; empty for the model itself."""
    kind: type
    """Class of the module."""
    name: str
    is_stored_tensor: bool
    """Whether the attribute is a tensor that was assigned, not changed in place: it can be harmless."""
    is_generator: bool = False
    """Whether the attribute is a generator of random numbers."""

    @property
    def place(self) -> SourceLocation | None:
        return place_of_change(self.kind, self.name)


def place_of_change(kind: type, name: str) -> SourceLocation | None:
    """The line of the author's class that changes an attribute, as far as its text shows; else its first line."""
    try:
        lines, first = inspect.getsourcelines(kind)
        file = inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):
        return None
    if not is_author_file(file):
        return None
    changing = re.compile(rf"self\.{re.escape(name)}\b(\[.*\])?\s*([-+*/@|&^%]{{0,2}}=(?!=)|\.\w+\()")
    method, found = "", dict[str, int]()
    for number, line in enumerate(lines):
        if match := re.match(r"\s*(?:async )?def (\w+)", line):
            method = match[1]
        if changing.search(line):
            found.setdefault(method, number)
    elsewhere = [number for method, number in found.items() if method != "__init__"]
    return SourceLocation(file, first + found.get("forward", elsewhere[-1] if elsewhere else 0))


def shared_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model's structure and Python attributes; its tensors are the same objects."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)})


def detached_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model with its own tensors; those that are results of computations become plain values."""
    results = [tensor for tensor in _tensors(model) if not tensor.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in results})


def _tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    seen: set[int] = set()

    def walk(value: Any, depth: int) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif depth < 6 and id(value) not in seen:
            seen.add(id(value))
            parts: Any = ()
            if isinstance(value, Mapping):
                parts = value.values()
            elif isinstance(value, list | tuple | set | frozenset):
                parts = value
            elif hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
                parts = vars(value).values()
            for part in list(parts):
                yield from walk(part, depth + 1)

    for module in model.modules():
        for value in vars(module).values():
            yield from walk(value, 0)


def versions(model: torch.nn.Module) -> dict[int, int]:
    """How often each tensor of a model was changed in place, by its identity."""
    return {id(tensor): tensor._version for tensor in _tensors(model)}


def changes(before: torch.nn.Module, after: torch.nn.Module, known: Mapping[int, int]) -> list[AttributeChange]:
    """The attributes of modules that differ, in the order of the modules.

    Args:
        after: a `shared_copy` of ``before`` that was called.
        known: the `versions` of ``before`` before that call.
    """
    others = dict(after.named_modules())
    return [
        AttributeChange(
            path, type(module), name, isinstance(new, torch.Tensor) and old is not new, isinstance(new, _GENERATORS)
        )
        for path, module in before.named_modules()
        if path in others
        for name, old, new in _attributes(module, others[path])
        if not _BOOKKEEPING.fullmatch(name) and (not _same(old, new, 0) or (old is new and _is_written(old, known)))
    ]


def _is_written(value: Any, known: Mapping[int, int]) -> bool:
    return isinstance(value, torch.Tensor) and value._version != known.get(id(value), value._version)


def _attributes(before: torch.nn.Module, after: torch.nn.Module) -> Iterator[tuple[str, Any, Any]]:
    for name in {**vars(before), **vars(after)}:
        yield name, vars(before).get(name), vars(after).get(name)


def _state_of(generator: Any) -> Any:
    """The state of a generator of random numbers."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state().numpy()


def _same(a: Any, b: Any, depth: int) -> bool:
    if a is b or depth > 6:
        return True
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, _GENERATORS):
        return _same(_state_of(a), _state_of(b), depth + 1)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_same(a[key], b[key], depth + 1) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float | str | bytes | bool | complex | set | frozenset):
        return bool(a == b)
    if hasattr(a, "__dict__") and not callable(a):
        return _same(vars(a), vars(b), depth + 1)
    return True
