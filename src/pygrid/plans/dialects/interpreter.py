"""Runs a list of actions with numpy, within limits on actions, sizes and arithmetic.

The commands are a closed list. Nothing else is looked up: a command is a key of a table, never a name of an object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidPlan
from pygrid.syft.ids import Id
from pygrid.syft.plans import Action, PlanMessage, Ref

Array: TypeAlias = npt.NDArray[Any]
Command: TypeAlias = Callable[..., Any]
"""``(budget, *arguments) -> array``, or a tuple of arrays."""

MAX_ELEMENTS = 64 * 1024 * 1024
"""Elements of one array."""
MAX_WORK = 20 * 10**9
"""Elements that all actions write, and multiplications of matrix products, together."""


def unsound(why: str, code: str = codes.PLAN_VARIANT_INVALID) -> InvalidPlan:
    """The error for a list of actions that is not run."""
    return InvalidPlan(why, code=code)


def one_hot(classes: Array, num_classes: int) -> Array:
    """A float32 row for each class number: 1 at its place, else 0."""
    return np.asarray(classes[..., None] == np.arange(num_classes), np.float32)


@dataclass
class RunBudget:
    """What a run may still compute."""

    work: int = MAX_WORK
    max_elements: int = MAX_ELEMENTS

    def take(self, shape: Sequence[int], each: int = 1) -> tuple[int, ...]:
        """Count an array that will be made, before it is made; returns its shape.

        Args:
            each: operations for each element.
        Raises:
            InvalidPlan: the array is too large, or the run does too much.
        """
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise unsound(f"an action makes an array of shape {list(sizes)}")
        count = math.prod(sizes)
        if count > self.max_elements:
            raise unsound(f"an action makes {count:,} elements; at most {self.max_elements:,} are allowed")
        self.work -= count * max(each, 1)
        if self.work < 0:
            raise unsound(f"the actions do more than {MAX_WORK:,} operations")
        return sizes

    def broadcast(self, *arrays: Any) -> None:
        """Count the result of an elementwise operation."""
        try:
            self.take(np.broadcast_shapes(*[np.shape(one) for one in arrays]))
        except ValueError as error:
            raise unsound(f"shapes of an action do not fit: {error}") from error


@dataclass(frozen=True)
class ActionProgram:
    """A list of actions that was checked, and the table of its commands."""

    message: PlanMessage
    commands: Mapping[str, Command]
    find: Callable[[Action], str] = field(default=lambda action: action.command)
    """Returns the key of an action in the table."""

    def check(self) -> None:
        """Check that the actions are known commands on values that exist.

        Raises:
            InvalidPlan: names the first action that is not.
        """
        message = self.message
        known: set[Id] = set(message.inputs) | set(message.constants)
        if len(known) != len(message.inputs) + len(message.constants):
            raise unsound("a placeholder is an input twice, or also a constant")
        for number, action in enumerate(message.actions):
            where = f"action {number + 1} ({action.command[:60]!r})"
            if self.find(action) not in self.commands:
                raise unsound(f"{where} is not a known command")
            for one in _references((action.target, action.args, *action.kwargs.values())):
                if one not in known:
                    raise unsound(f"{where} uses the placeholder {one!r}, which has no value there")
            if action.result in known:
                raise unsound(f"{where} writes the placeholder {action.result!r}, which has a value")
            known.add(action.result)
        own = set(message.inputs) | set(message.constants)
        for output in message.outputs:
            if output not in known or output in own:
                raise unsound(f"the output {output!r} is not the result of an action")
        if len(set(message.outputs)) != len(message.outputs):
            raise unsound("two outputs are the same placeholder; each must be an array of its own")

    def run(self, inputs: Sequence[Any], budget: RunBudget | None = None) -> list[Any]:
        """The outputs for these inputs. The program must have been checked.

        Raises:
            InvalidPlan: an action fails, or the run is over its budget.
        """
        message, budget = self.message, budget or RunBudget()
        if len(inputs) != len(message.inputs):
            raise unsound(f"the plan has {len(message.inputs)} inputs; {len(inputs)} were given")
        values: dict[Id, Any] = {**message.constants, **dict(zip(message.inputs, inputs, strict=True))}
        last = self._last_uses()
        for number, action in enumerate(message.actions):
            args = [_resolve(one, values) for one in action.args]
            if action.target is not None:
                args.insert(0, _resolve(action.target, values))
            kwargs = {name: _resolve(one, values) for name, one in action.kwargs.items()}
            try:
                with np.errstate(all="ignore"):
                    result = self.commands[self.find(action)](budget, *args, **kwargs)
                if result.dtype.kind not in "biuf":
                    raise unsound("its result is not made of numbers")
                values[action.result] = result
            except InvalidPlan as error:
                raise unsound(f"action {number + 1} ({action.command[:60]!r}): {error.detail}") from error
            except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError, MemoryError) as error:
                reason = f"action {number + 1} ({action.command[:60]!r}) fails: {type(error).__name__}: {error}"
                raise unsound(reason[:400]) from error
            for done in last.get(number, ()):
                values.pop(done, None)
        return [values[output] for output in message.outputs]

    def _last_uses(self) -> dict[int, list[Id]]:
        """The placeholders that no action after a number needs."""
        last: dict[Id, int] = {}
        for number, action in enumerate(self.message.actions):
            last[action.result] = number
            for one in _references((action.target, action.args, *action.kwargs.values())):
                last[one] = number
        found: dict[int, list[Id]] = {}
        for one, number in last.items():
            if one not in self.message.outputs:
                found.setdefault(number, []).append(one)
        return found


def _references(value: Any) -> list[Id]:
    if isinstance(value, Ref):
        return [value.id]
    if isinstance(value, tuple):
        return [one for part in value for one in _references(part)]
    return []


def _resolve(value: Any, values: Mapping[Id, Any]) -> Any:
    if isinstance(value, Ref):
        return values[value.id]
    return tuple(_resolve(one, values) for one in value) if isinstance(value, tuple) else value
