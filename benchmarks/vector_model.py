"""The smallest model there is, at any size: one vector of float32, and a plan that trains it.

The benchmarks report made-up diffs, so the plan is never run; it is there because a process is hosted with one.
"""

from __future__ import annotations

import hashlib

import numpy as np
from onnx import TensorProto, helper

from pygrid.plans import DataPort, Graph, Hyper, Manifest, Port, build_archive
from pygrid.plans.manifest import FORMAT
from pygrid.tensors import encode

NAME = "w"


def model_bytes(size: int) -> bytes:
    """A checkpoint of ``size`` zeros."""
    return encode({NAME: np.zeros(size, np.float32)})


def diff_bytes(size: int, value: float = 1e-3) -> bytes:
    """A report of one example whose diff is ``value`` everywhere."""
    return encode({NAME: np.full(size, value, np.float32)}, {"num_examples": "1"})


def plan_bytes(size: int, *, has_labels: bool = False) -> bytes:
    """A training plan: every step takes ``lr`` times the mean of ``x`` off each value.

    Args:
        has_labels: the mean is that of ``x - y``, as clients of 2020 need two ports.
    """
    ports = ("x", "y") if has_labels else ("x",)
    data, step, new = helper.make_tensor_value_info, helper.make_node, f"new/params/{NAME}"
    real = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            *([step("Sub", ["data/x", "data/y"], ["x-y"], name="error")] if has_labels else []),
            step("ReduceMean", ["x-y" if has_labels else "data/x"], ["metrics/loss"], name="loss", keepdims=0),
            step("Mul", ["hyper/lr", "metrics/loss"], ["step"], name="step"),
            step("Sub", [f"params/{NAME}", "step"], [new], name="update"),
        ],
        "train",
        [
            data(f"params/{NAME}", real, [size]),
            data("hyper/lr", real, []),
            *(data(f"data/{port}", real, ["batch"]) for port in ports),
        ],
        [data(new, real, [size]), data("metrics/loss", real, [])],
    )
    opset = 20
    onnx = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()
    train = Graph(
        sha256=hashlib.sha256(onnx).hexdigest(),
        inputs=(
            Port(f"params/{NAME}", "float32", (size,)),
            Port("hyper/lr", "float32", ()),
            *(Port(f"data/{port}", "float32", ("batch",)) for port in ports),
        ),
        outputs=(Port(new, "float32", (size,)), Port("metrics/loss", "float32", ())),
        num_nodes=2 + len(ports),
        flops_fixed=size + 1,
        flops_per_example=len(ports),
    )
    manifest = Manifest(
        format=FORMAT,
        kind="training",
        name="vector",
        description="One vector, for measuring.",
        author="",
        opset=opset,
        graphs={"train": train},
        data={port: DataPort("float32", ()) for port in ports},
        hyper={"lr": Hyper(0.1, 0.0, 1.0)},
        metrics={"loss": "mean"},
        max_batch_size=32,
    )
    return build_archive(manifest, {"train": onnx}, "# made by benchmarks/vector_model.py\n")
