"""Random programs: a few nodes with operators, inputs and attributes drawn at random."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from onnx import TensorProto

from pygrid.errors import InvalidPlan
from pygrid.plans import Port
from pygrid.plans.costs import analyse
from pygrid.plans.operators import OPERATORS
from support.plans.handmade import GraphBuilder, f32

INPUTS = (
    f32("data/x", "batch", 4),
    f32("data/z", "batch", 2, 4),
    Port("data/y", "int64", ("batch",)),
    f32("params/w", 4, 4),
    f32("params/v", 4),
)
CONSTANTS: dict[str, Any] = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "minus": np.array([-1]),
    "two": np.array(2),
    "flat": np.array([-1, 4]),
    "pair": np.array([1, 2]),
    "none": np.array([], np.int64),
    "half": np.array(0.5, np.float32),
    "row": np.array([[0.1, -0.2, 0.3, 0.4]], np.float32),
    "zeros": np.zeros((4, 4), np.float32),
    "yes": np.array(True),
}
PROFILE = settings(
    max_examples=int(os.environ.get("PYGRID_FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
small = st.integers(-1, 3)
ATTRIBUTES = {
    "axis": small,
    "keepdims": st.integers(0, 1),
    "noop_with_empty_axes": st.integers(0, 1),
    "perm": st.permutations([0, 1]) | st.permutations([0, 1, 2]),
    "transA": st.integers(0, 1),
    "transB": st.integers(0, 1),
    "to": st.sampled_from([TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL]),
    "reduction": st.sampled_from(["none", "add", "max"]),
    "kernel_shape": st.lists(st.integers(1, 2), min_size=1, max_size=2),
    "pads": st.lists(st.integers(0, 1), min_size=2, max_size=2),
    "strides": st.lists(st.integers(1, 2), min_size=1, max_size=1),
    "dilations": st.lists(st.integers(1, 2), min_size=1, max_size=1),
    "output_padding": st.lists(st.integers(0, 2), min_size=1, max_size=1),
    "group": st.integers(1, 2),
    "start": small,
    "end": small,
    "upper": st.integers(0, 1),
    "allowzero": st.integers(0, 1),
    "fmod": st.integers(0, 1),
}
REQUIRED = {"axis": ("Concat",), "to": ("Cast",), "kernel_shape": ("MaxPool", "AveragePool")}
FUZZED = sorted(set(OPERATORS) - {"Constant"})  # Constant has no inputs, and its forms are cases of their own


@st.composite
def programs(draw: Any, tries: int) -> GraphBuilder:
    """A program of up to so many nodes; those that the analysis refuses are left out, else little would be left
    to run.
    """
    g = GraphBuilder()
    for name, array in CONSTANTS.items():
        g.initializers.append(onnx.numpy_helper.from_array(array, name))
    names = [port.name for port in INPUTS]
    for _ in range(tries):
        op = draw(st.sampled_from(FUZZED))
        schema = onnx.defs.get_schema(op, 20)
        attributes = {
            name: draw(ATTRIBUTES[name])
            for name in sorted(schema.attributes)
            if name in ATTRIBUTES and (op in REQUIRED.get(name, ()) or draw(st.booleans()))
        }
        count = draw(st.integers(schema.min_input, min(schema.max_input, 4)))
        # What was made last is drawn more often, so that programs become deep rather than wide.
        pool = st.sampled_from(names) | st.sampled_from(list(CONSTANTS)) | st.sampled_from(names[-2:])
        made = g.op(op, *(draw(pool) for _ in range(count)), **attributes)
        try:
            analyse(g.model(INPUTS, ()).graph, name="program", max_n=8)
        except InvalidPlan:
            g.nodes.pop()
        else:
            names.append(made)
    assume(g.nodes)
    return g


def feed(n: int, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    values = {}
    for port in INPUTS:
        shape = [n if isinstance(size, str) else size for size in port.shape]
        # Params are the same for every n and seed; only data differs.
        source = generator if port.name.startswith("data/") else np.random.default_rng(99)
        values[port.name] = (
            source.integers(0, 4, size=shape) if port.dtype == "int64" else source.normal(size=shape).astype(np.float32)
        )
    return values
