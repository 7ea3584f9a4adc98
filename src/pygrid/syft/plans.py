"""``execution.v1.Plan``: a list of actions on placeholders, or TorchScript."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from pygrid.syft import wire
from pygrid.syft.ids import Id, read_id, write_id
from pygrid.syft.states import read_parameter, read_state_in, state_pieces
from pygrid.syft.tensors import Array, read_dims, read_tensor, tensor_pieces

MAX_PLAN_BYTES = 8 * 1024 * 1024
MAX_ACTIONS = 20_000
MAX_ARGUMENTS = 64
MAX_NAME = 200


@dataclass(frozen=True)
class Ref:
    """A placeholder, as an argument."""

    id: Id


Argument: TypeAlias = Any
"""None, a bool, an int, a float, a str, a `Ref`, an array, or a tuple of arguments."""


@dataclass(frozen=True)
class Action:
    """One operation: a function of arguments, or a method of a target."""

    command: str
    args: tuple[Argument, ...]
    result: Id
    target: Ref | Array | None = None
    kwargs: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanMessage:
    """A plan for one dialect. ``constants`` are the arrays of its own state, by placeholder."""

    name: str
    inputs: tuple[Id, ...] = ()
    outputs: tuple[Id, ...] = ()
    actions: tuple[Action, ...] = ()
    constants: Mapping[Id, Array] = field(default_factory=dict)
    torchscript: bytes = b""
    base_framework: str = ""
    shapes: Mapping[Id, tuple[int, ...]] = field(default_factory=dict)
    """The expected shapes of placeholders, as far as the plan has them."""


# -- Reading -----------------------------------------------------------------------------------------------------------


def read_plan(data: bytes | memoryview) -> PlanMessage:
    """The plan in these bytes. Names of commands and the use of placeholders are not checked.

    Raises:
        InvalidInput: ``invalid_protobuf``.
    """
    view = memoryview(data).cast("B")
    if len(view) > MAX_PLAN_BYTES:
        raise wire.invalid(f"a plan has {len(view):,} bytes; at most {MAX_PLAN_BYTES:,} are allowed")
    reader = wire.WireReader()
    name, torchscript, framework = "", b"", ""
    role: memoryview | None = None
    for found in reader.fields(view):
        if found.number == 2:
            if role is not None:
                raise wire.invalid("a plan has two roles")
            role = wire.message_of(found)
        elif found.number == 4:
            name = wire.text_of(found)[:MAX_NAME]
        elif found.number == 7:
            torchscript = bytes(wire.message_of(found))
        elif found.number == 9:
            framework = wire.text_of(found)
    message = PlanMessage(name, torchscript=torchscript, base_framework=framework)
    return message if role is None else _with_role(reader, message, role)


def _with_role(reader: wire.WireReader, message: PlanMessage, data: memoryview) -> PlanMessage:
    actions: list[Action] = []
    inputs: list[Id] = []
    outputs: list[Id] = []
    constants: dict[Id, Array] = {}
    shapes: dict[Id, tuple[int, ...]] = {}
    for found in reader.fields(data, 1):
        if found.number == 2:
            if len(actions) >= MAX_ACTIONS:
                raise wire.invalid(f"a plan has more than {MAX_ACTIONS:,} actions")
            actions.append(_read_action(reader, wire.message_of(found), 2))
        elif found.number == 3:
            constants |= _read_constants(reader, wire.message_of(found), 2)
        elif found.number == 4:
            shapes |= _read_shape(reader, wire.message_of(found), 2)
        elif found.number in (5, 6):
            (inputs if found.number == 5 else outputs).append(read_id(reader, wire.message_of(found), 2))
    return replace(
        message,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        actions=tuple(actions),
        constants=constants,
        shapes=shapes,
    )


def _read_shape(reader: wire.WireReader, data: memoryview, depth: int) -> dict[Id, tuple[int, ...]]:
    """The expected shape of a placeholder by its id; empty if it has none."""
    fields = list(reader.fields(data, depth))
    shapes = [read_dims(reader, wire.message_of(one), depth + 1) for one in fields if one.number == 6]
    ids = [read_id(reader, wire.message_of(one), depth + 1) for one in fields if one.number == 3]
    return dict(zip(ids, shapes, strict=False))


def _read_constants(reader: wire.WireReader, data: memoryview, depth: int) -> dict[Id, Array]:
    """The arrays of a State by their placeholders."""
    ids = [
        _read_placeholder(reader, wire.message_of(found), depth + 1)
        for found in reader.fields(data, depth)
        if found.number == 1
    ]
    arrays = read_state_in(reader, data, depth)
    if len(ids) != len(arrays) or len(set(ids)) != len(ids):
        raise wire.invalid("the state of a plan does not have one placeholder for each tensor")
    return dict(zip(ids, arrays, strict=True))


def _read_placeholder(reader: wire.WireReader, data: memoryview, depth: int) -> Id:
    found = [one for one in reader.fields(data, depth) if one.number == 3]
    if len(found) != 1:
        raise wire.invalid("a placeholder does not have one id")
    return read_id(reader, wire.message_of(found[0]), depth + 1)


def _read_placeholder_id(reader: wire.WireReader, data: memoryview, depth: int) -> Id:
    found = [one for one in reader.fields(data, depth) if one.number == 1]
    if len(found) != 1:
        raise wire.invalid("a placeholder id does not have one id")
    return read_id(reader, wire.message_of(found[0]), depth + 1)


def _read_action(reader: wire.WireReader, data: memoryview, depth: int) -> Action:
    command = ""
    target: Ref | Array | None = None
    args: list[Argument] = []
    kwargs: dict[str, Argument] = {}
    results: list[Id] = []
    for found in reader.fields(data, depth):
        number = found.number
        if number == 1:
            command = wire.text_of(found)
        elif number in (2, 3, 4, 9):
            if target is not None:
                raise wire.invalid("an action has two targets")
            target = _read_target(reader, found, depth)
        elif number == 5:
            args.append(_read_argument(reader, wire.message_of(found), depth + 1))
        elif number == 6:
            name, value = _read_entry(reader, wire.message_of(found), depth + 1)
            kwargs[name] = value
        elif number == 7:
            results.append(read_id(reader, wire.message_of(found), depth + 1))
        elif number == 8:
            results.append(_read_placeholder_id(reader, wire.message_of(found), depth + 1))
        if len(args) > MAX_ARGUMENTS or len(kwargs) > MAX_ARGUMENTS or len(results) > 1:
            raise wire.invalid(f"an action has more than {MAX_ARGUMENTS} arguments, or more than one result")
    if not command or len(command) > MAX_NAME or not results:
        raise wire.invalid("an action has no command, or no result")
    return Action(command, tuple(args), results[0], target, kwargs)


def _read_target(reader: wire.WireReader, found: wire.WireField, depth: int) -> Ref | Array:
    if found.number == 3:
        return Ref(_read_placeholder_id(reader, wire.message_of(found), depth + 1))
    if found.number == 4:
        return read_tensor(reader, wire.message_of(found), depth + 1)
    raise wire.invalid("an action works on a pointer or an object of a worker, which a plan cannot")


def _read_entry(reader: wire.WireReader, data: memoryview, depth: int) -> tuple[str, Argument]:
    name, value = "", None
    for found in reader.fields(data, depth):
        if found.number == 1:
            name = wire.text_of(found)
        elif found.number == 2:
            value = _read_argument(reader, wire.message_of(found), depth + 1)
    return name[:MAX_NAME], value


def _read_argument(reader: wire.WireReader, data: memoryview, depth: int) -> Argument:
    values = [_argument(reader, found, depth) for found in reader.fields(data, depth) if found.number <= 11]
    if len(values) > 1:
        raise wire.invalid("an argument has two values")
    return values[0] if values else None


def _argument(reader: wire.WireReader, found: wire.WireField, depth: int) -> Argument:
    inner = depth + 1
    match found.number:
        case 1:
            return bool(wire.integer_of(found))
        case 2:
            return wire.integer_of(found)
        case 3:
            return wire.float_of(found)
        case 4:
            return wire.text_of(found)
        case 5:
            return read_dims(reader, wire.message_of(found), inner)
        case 6:
            return read_tensor(reader, wire.message_of(found), inner)
        case 7:
            return read_parameter(reader, wire.message_of(found), inner)
        case 9:
            return Ref(_read_placeholder(reader, wire.message_of(found), inner))
        case 10:
            return Ref(_read_placeholder_id(reader, wire.message_of(found), inner))
        case 11:
            return _read_list(reader, wire.message_of(found), inner)
    raise wire.invalid("an argument is a pointer, which a plan cannot have")


def _read_list(reader: wire.WireReader, data: memoryview, depth: int) -> tuple[Argument, ...]:
    return tuple(
        _read_argument(reader, wire.message_of(found), depth + 1)
        for found in reader.fields(data, depth)
        if found.number == 1
    )


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_plan(message: PlanMessage) -> bytes:
    """The bytes of a plan. A plan with actions has an id in its role, without which syft.js refuses it."""
    parts = [write_id(1, 1)]
    if message.actions or message.inputs:
        parts.append(wire.write_bytes(2, _role(message)))
    parts += [wire.write_int(3, 1), wire.write_text(4, message.name)]
    if message.torchscript:
        parts.append(wire.write_bytes(7, message.torchscript))
    if message.base_framework:
        parts.append(wire.write_text(9, message.base_framework))
    return b"".join(parts)


def _role(message: PlanMessage) -> bytes:
    listed = dict.fromkeys((*message.inputs, *message.outputs, *message.constants))
    return b"".join(
        (
            write_id(1, 2),
            *(wire.write_bytes(2, _write_action(action)) for action in message.actions),
            wire.write_bytes(3, _write_constants(message.constants)),
            *(wire.write_bytes(4, write_id(3, one) + _expected_shape(message.shapes.get(one))) for one in listed),
            *(write_id(5, one) for one in message.inputs),
            *(write_id(6, one) for one in message.outputs),
        )
    )


def _expected_shape(shape: tuple[int, ...] | None) -> bytes:
    return b"" if shape is None else wire.write_bytes(6, wire.write_bytes(1, b"".join(map(wire.varint, shape))))


def _write_constants(constants: Mapping[Id, Array]) -> bytes:
    placeholders = [wire.write_bytes(1, write_id(3, one)) for one in constants]
    entries = state_pieces(list(constants.values()))[len(constants) :]
    return b"".join((*placeholders, *entries))


def _write_action(action: Action) -> bytes:
    parts = [wire.write_text(1, action.command)]
    if isinstance(action.target, Ref):
        parts.append(wire.write_bytes(3, write_id(1, action.target.id)))
    elif action.target is not None:
        parts.append(wire.write_bytes(4, b"".join(tensor_pieces(0, action.target))))
    parts += [wire.write_bytes(5, _write_argument(argument)) for argument in action.args]
    for name, argument in action.kwargs.items():
        parts.append(wire.write_bytes(6, wire.write_text(1, name) + wire.write_bytes(2, _write_argument(argument))))
    parts.append(wire.write_bytes(8, write_id(1, action.result)))
    return b"".join(parts)


def _write_argument(value: Argument) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bool):
        return wire.write_int(1, value)
    if isinstance(value, int):
        return wire.write_int(2, value)
    if isinstance(value, float):
        return wire.write_float(3, value)
    if isinstance(value, str):
        return wire.write_text(4, value)
    if isinstance(value, Ref):
        return wire.write_bytes(10, write_id(1, value.id))
    if isinstance(value, tuple):
        return wire.write_bytes(11, b"".join(wire.write_bytes(1, _write_argument(one)) for one in value))
    return wire.write_bytes(6, b"".join(tensor_pieces(0, np.asarray(value))))
