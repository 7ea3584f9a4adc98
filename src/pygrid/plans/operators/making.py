"""Operators that make tensors: constants, ranges, and the shapes of others."""

from __future__ import annotations

import math

import numpy as np

from pygrid.plans.operators.values import (
    MAX_KNOWN,
    OperatorCall,
    ShapeRefused,
    TensorValue,
    array_value,
    as_known,
    checked,
    shape_from,
)
from pygrid.plans.sizes import is_size


def infer_constant(call: OperatorCall) -> list[TensorValue]:
    forms = {
        "value": None,
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    given = [name for name in call.attributes if name in forms]
    if len(given) != 1 or len(call.attributes) != 1:
        raise ShapeRefused(f"a constant needs exactly one of {', '.join(forms)}")
    return [array_value(np.asarray(call.attributes[given[0]], forms[given[0]]))]


def infer_constant_of_shape(call: OperatorCall) -> list[TensorValue]:
    shape = shape_from(call.known(0))
    fill = np.asarray(call.attributes.get("value", np.zeros(1, np.float32)))
    if fill.size != 1:
        raise ShapeRefused(f"the value must have one element, not {fill.size}")
    value = array_value(fill.reshape(1))
    known = None
    total = math.prod(shape)
    if value.known is not None and isinstance(total, int) and total <= MAX_KNOWN:
        known = np.full([int(size) for size in shape if isinstance(size, int)], value.known[0], dtype=object)
    return [TensorValue(value.dtype, shape, known)]


def infer_range(call: OperatorCall) -> list[TensorValue]:
    start, limit, delta = (call.known_number(index) for index in range(3))
    if delta == 1 and is_size(limit - start):
        count = limit - start
    elif isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int) and delta != 0:
        count = max(0, -((start - limit) // delta))
    else:
        raise ShapeRefused("the number of elements depends on the batch size in a way that cannot be bounded")
    known = None
    if isinstance(count, int) and count <= MAX_KNOWN:
        known = as_known([start + i * delta for i in range(count)])
    return [checked(call, TensorValue(call.get(0).dtype, (count,), known))]


def infer_shape(call: OperatorCall) -> list[TensorValue]:
    sizes = call.get(0).shape[call.attributes.get("start", 0) : call.attributes.get("end", None)]
    return [checked(call, TensorValue("int64", (len(sizes),), as_known(sizes)))]


def infer_size(call: OperatorCall) -> list[TensorValue]:
    total = np.empty((), dtype=object)
    total[()] = call.get(0).num_elements
    return [checked(call, TensorValue("int64", (), total))]
