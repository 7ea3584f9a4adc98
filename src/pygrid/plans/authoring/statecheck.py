"""Refuses models with state that a plan would not keep, and code that computes something else in each run."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pygrid import codes
from pygrid.plans.authoring.diagnostics import SourceLocation, authoring_error, quiet
from pygrid.plans.authoring.programs import Subject
from pygrid.plans.authoring.selfcheck import BATCH_SIZES, Feeder
from pygrid.plans.authoring.state import AttributeChange, changes, place_of_change, versions
from pygrid.plans.authoring.tracing import Arrays, Program

_ROUNDING = 1e-4
_COUNTERS = "num_batches_tracked"
"""Buffers of normalization layers, which are read only if ``momentum`` is None."""


def check_state(subject: Subject, program: Program, feeder: Feeder, place: SourceLocation | None) -> None:
    """Refuse a model with state that a plan would not keep, and code that computes something else in each run.

    Raises:
        AuthoringError: ``plan_state`` names the attribute; ``plan_random``: two runs on one batch differ.
    """
    own = copy.copy(feeder)
    own.random = np.random.default_rng(21)  # the inputs of later checks stay the same
    first, second = (own.feed(program.inputs, BATCH_SIZES[1]) for _ in range(2))
    for name, array in second.items():
        if name.startswith(("params/", "buffers/")):  # a value that was computed from the weights is state, too
            second[name] = np.asarray(array, np.float32) * np.float32(1.03125) + np.float32(0.0078125)
    known = versions(subject.model)
    _run_once(program, first)
    called = subject.called
    for name, tensor in subject.constants.items():
        if name.rpartition(".")[2] != _COUNTERS and not torch.equal(tensor, subject.constants_after[name]):
            _refuse_buffer(subject.model, name, place)
    stored = changes(subject.model, called, known)
    for change in stored:
        if not change.is_stored_tensor:
            _refuse(change, place)

    def fresh() -> Arrays:
        return _run_once(program, second)

    _check_equal(fresh, place)
    if stored and not _agree(fresh, lambda: subject.continued(called, fresh)):
        _refuse(stored[0], place)


def check_repeats(program: Program, feeder: Feeder, place: SourceLocation | None) -> None:
    """Refuse code that computes something else in each run.

    Raises:
        AuthoringError: ``plan_random``: two runs on one batch differ.
    """
    own = copy.copy(feeder)
    own.random = np.random.default_rng(21)  # the inputs of later checks stay the same
    feed = own.feed(program.inputs, BATCH_SIZES[1])
    _check_equal(lambda: _run_once(program, feed), place)


def _check_equal(run: Callable[[], Arrays], place: SourceLocation | None) -> None:
    if not _agree(run, run):
        reason = (
            "two runs on the same batch differ: the code uses random numbers that are not torch's, the time, or a "
            "value that it changes itself, and a plan would keep their first value; use torch's random functions, or "
            "take the value as data or hyperparameter"
        )
        raise authoring_error(reason, place, code=codes.PLAN_RANDOM)


def _run_once(program: Program, feed: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    """The outputs of a program in eager torch; torch's random numbers are the same in each call."""
    arrays: Arrays = {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return program.run(arrays)


def _agree(one: Callable[[], Arrays], other: Callable[[], Arrays]) -> bool:
    """Whether two runs have the same outputs, up to rounding: kernels with several threads can add in another order."""
    if _digest(one()) == _digest(other()):  # the outputs of a large model are not kept
        return True
    a, b = one(), other()
    return all(_close(a[name].detach(), b[name].detach()) for name in a)


def _digest(outputs: Arrays) -> str:
    digest = hashlib.blake2b()
    for tensor in outputs.values():
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=0.0, atol=_ROUNDING * max(float(a.abs().max()), 1e-6), equal_nan=True))


def _refuse(change: AttributeChange, place: SourceLocation | None) -> None:
    """Raise the error for a change that a plan would not repeat."""
    owner = f"layer {change.owner!r}" if change.owner else "the model"
    if change.is_generator:
        reason = (
            f"{owner} ({change.kind.__name__}) draws from its generator {change.name!r} in forward, and a plan would "
            "keep the first numbers; draw with torch, for example torch.rand_like(x)"
        )
        raise authoring_error(reason, change.place or place, code=codes.PLAN_RANDOM, attribute=change.name)
    reason = (
        f"{owner} ({change.kind.__name__}) changes its attribute {change.name!r} in forward, and a plan would keep the "
        "first value. Make it a float32 buffer and change it in place: "
        f"self.register_buffer({change.name!r}, torch.zeros(())), then self.{change.name}.add_(1); or leave it out"
    )
    raise authoring_error(reason, change.place or place, code=codes.PLAN_STATE, attribute=change.name)


def _refuse_buffer(model: torch.nn.Module, name: str, place: SourceLocation | None) -> None:
    """Raise the error for a buffer that changes and is a constant of the plan."""
    buffer = model.get_buffer(name)
    path, _, bare = name.rpartition(".")
    place = place_of_change(type(model.get_submodule(path)), bare) or place
    kind = str(buffer.dtype).removeprefix("torch.")
    way = (
        "register it with persistent=True"
        if buffer.is_floating_point()
        else "make it a float32 buffer (torch.zeros(()))"
    )
    reason = f"forward changes the buffer {name!r} ({kind}), which is a constant of the plan; {way}"
    raise authoring_error(reason, place, code=codes.PLAN_STATE, attribute=name)
