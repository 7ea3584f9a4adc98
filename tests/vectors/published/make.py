"""Writes ``syft_proto.json``: States and Plans as the package syft-proto of 2020 writes them, in hexadecimal.

The package needs an old protobuf, so it gets an environment of its own, and no test imports it:

    python3 -m venv /tmp/syft-proto
    /tmp/syft-proto/bin/pip install syft-proto==0.5.3 protobuf==3.20.3 "setuptools<81"
    /tmp/syft-proto/bin/python tests/vectors/published/make.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from syft_proto.execution.v1.plan_pb2 import Plan
from syft_proto.execution.v1.state_pb2 import State

NUMBERS = {"float32": [1.5, -2.0], "float64": [0.1, 3.0], "int32": [-1, 70_000], "int64": [-(2**40), 5]}
NUMBERS |= {"uint8": [0, 255], "bool": [True, False]}


def put_tensor(tensor: Any, number: int, dtype: str, shape: tuple[int, ...], values: list[Any]) -> None:
    """Fill a TorchTensor."""
    tensor.id.id_int = number
    tensor.contents_data.shape.dims.extend(shape)
    tensor.contents_data.dtype = dtype
    getattr(tensor.contents_data, f"contents_{dtype}").extend(values)
    tensor.serializer = 4


def state(*, has_parameters: bool = False) -> State:
    """A State with a tensor of each dtype, a matrix, a number, and a tensor without elements."""
    tensors = [(dtype, (2,), values) for dtype, values in NUMBERS.items()]
    tensors += [("float32", (2, 3), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), ("float32", (), [7.0]), ("float32", (0,), [])]
    made = State()
    for number, (dtype, shape, values) in enumerate(tensors):
        placeholder = made.placeholders.add()
        placeholder.id.id_int = number
        placeholder.tags.extend([f"#{number}", f"#state-{number}"])
        entry = made.tensors.add()
        if has_parameters:
            entry.torch_param.id.id_str = f"p{number}"
            entry.torch_param.requires_grad = True
        put_tensor(entry.torch_param.tensor if has_parameters else entry.torch_tensor, number, dtype, shape, values)
    return made


def plan() -> Plan:
    """A Plan with each kind of argument, a target, keywords and a constant."""
    made = Plan(name="training_plan", include_state=True, base_framework="tfjs")
    made.id.id_int = 1
    role = made.role
    role.id.id_int = 2
    first = role.actions.add(command="tf.add")
    for number in (1, 5):
        first.args.add().arg_placeholder_id.id.id_int = number
    first.return_placeholder_ids.add().id.id_int = 10
    second = role.actions.add(command="concat")
    second.target_placeholder_id.id.id_int = 10
    for name, value in (("arg_bool", False), ("arg_int", -3), ("arg_float", 0.5), ("arg_str", "NHWC")):
        setattr(second.args.add(), name, value)
    second.args.add()
    numbers = second.args.add().arg_list
    for value in (2, 3):
        numbers.args.add().arg_int = value
    put_tensor(second.args.add().arg_tensor, 0, "int32", (1,), [4])
    second.kwargs["axis"].arg_int = 1
    second.return_placeholder_ids.add().id.id_int = 11
    role.state.placeholders.add().id.id_int = 5
    put_tensor(role.state.tensors.add().torch_tensor, 0, "float32", (2,), [1.5, -2.0])
    for number, shape in ((1, (8, 2)), ("y", None), (11, None), (5, None)):
        placeholder = role.placeholders.add()
        put_id(placeholder.id, number)
        placeholder.expected_shape.dims.extend(shape) if shape else None
    for number in (1, "y"):
        put_id(role.input_placeholder_ids.add(), number)
    role.output_placeholder_ids.add().id_int = 11
    return made


def put_id(one: Any, value: int | str) -> None:
    """Fill an Id."""
    setattr(one, "id_int" if isinstance(value, int) else "id_str", value)


def torchscript() -> Plan:
    """A Plan for mobile clients."""
    made = Plan(name="training_plan", include_state=True, torchscript=b"TorchScript")
    made.id.id_int = 1
    return made


if __name__ == "__main__":
    messages = {
        "state": state(),
        "parameters": state(has_parameters=True),
        "plan": plan(),
        "torchscript": torchscript(),
    }
    found = {name: one.SerializeToString(deterministic=True).hex() for name, one in messages.items()}
    Path(__file__).with_name("syft_proto.json").write_text(json.dumps(found, indent=1) + "\n")
