"""Which gradients are sums over examples is proven from the graph, and the proof is tested against what the graph
computes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from pygrid.plans import Port, Runner
from pygrid.plans.costs import analyse
from pygrid.plans.independence import judge
from support.plans.handmade import GraphBuilder, f32, logistic_data, logistic_params, logistic_plan

Build = Callable[[GraphBuilder], object]
OUT = "metrics/loss"
FEATURES = 4


def graph(build: Build):
    g = GraphBuilder()
    build(g)
    inputs = (f32("params/w", FEATURES, 3), f32("data/x", "batch", FEATURES), Port("data/y", "int64", ("batch",)))
    model = g.model(inputs, (f32(OUT),))
    return model


def verdict(build: Build):
    return judge(analyse(graph(build).graph, name="grads", max_n=64))


def total(g: GraphBuilder, value: str) -> str:
    return g.op("ReduceSum", value, keepdims=0, out=OUT)


def hidden(g: GraphBuilder) -> str:
    return g.op("Tanh", g.op("MatMul", "data/x", "params/w"))


INDEPENDENT: dict[str, Build] = {
    "a sum": lambda g: total(g, hidden(g)),
    "a mean": lambda g: g.op("ReduceMean", hidden(g), keepdims=0, out=OUT),
    "a sum of squares": lambda g: g.op("ReduceSumSquare", hidden(g), keepdims=0, out=OUT),
    "divided by the batch size": lambda g: g.op(
        "Div",
        g.op("ReduceSum", hidden(g), keepdims=0),
        g.op("Cast", g.op("Squeeze", g.op("Shape", "data/y"), g.ints(0)), to=TensorProto.FLOAT),
        out=OUT,
    ),
    "a weight gradient": lambda g: total(g, g.op("Gemm", "data/x", hidden(g), transA=1)),
    "a weight gradient by transposing": lambda g: total(g, g.op("MatMul", g.op("Transpose", "data/x"), hidden(g))),
    "softmax over classes": lambda g: total(g, g.op("Softmax", hidden(g), axis=1)),
    "layer norm": lambda g: total(
        g, g.op("Tanh", g.op("Sub", "data/x", g.op("ReduceMean", "data/x", g.ints(1), keepdims=1)))
    ),
    "examples in the middle axis": lambda g: total(
        g, g.op("Tanh", g.op("Transpose", g.op("Reshape", "data/x", g.ints(-1, 2, 2)), perm=[1, 0, 2]))
    ),
    "examples merged with time": lambda g: total(g, g.op("Tanh", g.op("Reshape", "data/x", g.ints(-1, 1)))),
    "merged, and apart again": lambda g: total(
        g,
        g.op(
            "ReduceMax",
            g.op("Reshape", g.op("Tanh", g.op("Reshape", "data/x", g.ints(-1, 2))), g.ints(-1, 4)),
            g.ints(1),
            keepdims=0,
        ),
    ),
    "an embedding": lambda g: total(g, g.op("Gather", "params/w", "data/y")),
    "an embedding's gradient": lambda g: total(
        g,
        g.op(
            "ScatterElements",
            g.const(np.zeros((FEATURES, 4), np.float32)),
            g.op("Expand", g.op("Unsqueeze", "data/y", g.ints(1)), g.ints(1, 4)),
            g.op("Tanh", "data/x"),
            axis=0,
            reduction="add",
        ),
    ),
    "a linear function of a sum": lambda g: total(
        g, g.op("Mul", g.op("ReduceSum", hidden(g), g.ints(0)), g.const(np.float32(3)))
    ),
    "an addition of what is free": lambda g: g.op(
        "Add", g.op("ReduceSum", hidden(g), keepdims=0), g.op("ReduceSum", "params/w", keepdims=0), out=OUT
    ),
    "nothing of the data": lambda g: total(g, "params/w"),
}

DEPENDENT: dict[str, Build] = {
    "centred by the batch's mean": lambda g: total(
        g, g.op("Exp", g.op("Sub", "data/x", g.op("ReduceMean", "data/x", g.ints(0), keepdims=1)))
    ),
    "the root of a mean": lambda g: g.op("Sqrt", g.op("ReduceMean", g.op("Abs", hidden(g)), keepdims=0), out=OUT),
    "the largest of the batch": lambda g: total(g, g.op("ReduceMax", hidden(g), g.ints(0))),
    "softmax over the batch": lambda g: g.op(
        "ReduceSumSquare", g.op("Softmax", hidden(g), axis=0), keepdims=0, out=OUT
    ),
    "every pair of examples": lambda g: total(g, g.op("Tanh", g.op("MatMul", "data/x", g.op("Transpose", "data/x")))),
    "the sum times each": lambda g: total(g, g.op("Mul", hidden(g), g.op("ReduceSum", hidden(g), g.ints(0)))),
    "one mean by another": lambda g: g.op(
        "Div",
        g.op("ReduceSum", hidden(g), keepdims=0),
        g.op("ReduceSum", g.op("Abs", "data/x"), keepdims=0),
        out=OUT,
    ),
    "the square of a sum": lambda g: g.op(
        "ReduceSumSquare", g.op("ReduceSum", hidden(g), g.ints(0)), keepdims=0, out=OUT
    ),
    "the first example only": lambda g: total(g, g.op("Tanh", g.op("Gather", "data/x", g.ints(0), axis=0))),
    "the first for each": lambda g: total(
        g, g.op("Mul", "data/x", g.op("Gather", "data/x", g.const(np.array([0])), axis=0))
    ),
    "scattered over each other": lambda g: total(
        g,
        g.op(
            "Tanh",
            g.op(
                "ScatterElements",
                g.const(np.zeros((FEATURES, 4), np.float32)),
                g.op("Expand", g.op("Unsqueeze", "data/y", g.ints(1)), g.ints(1, 4)),
                "data/x",
                axis=0,
                reduction="add",
            ),
        ),
    ),
    "the larger of a sum and a number": lambda g: total(
        g,
        g.op(
            "ScatterElements",
            g.op("ReduceSum", hidden(g), g.ints(0), keepdims=0),
            g.const(np.arange(3)),
            g.const(np.zeros(3, np.float32)),
            axis=0,
            reduction="max",
        ),
    ),
    "a kernel made of the batch": lambda g: total(
        g,
        g.op(
            "Tanh",
            g.op(
                "Conv",
                g.op("Reshape", g.op("Mul", "data/x", g.const(np.float32(0.1))), g.ints(1, -1, 2, 2)),
                g.op("Reshape", "data/x", g.ints(1, -1, 2, 2)),
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_what_is_a_sum_over_examples_is_proven_and_true(name):
    result = verdict(INDEPENDENT[name])
    assert result.independent, result.reason
    assert is_affine(INDEPENDENT[name])


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_mixes_examples_is_not_proven_and_the_node_is_named(name):
    result = verdict(DEPENDENT[name])
    assert not result.independent
    assert "metrics/loss mixes examples at node" in result.reason


CONSERVATIVE = {"the first example only"}
"""Of the required form, with a factor of 0 for all others; but nobody misses it."""


@pytest.mark.parametrize("name", sorted(DEPENDENT.keys() - CONSERVATIVE))
def test_the_mixtures_are_real(name):
    assert not is_affine(DEPENDENT[name])


def is_affine(build: Build) -> bool:
    """Whether f(a, b) - f(a, c) is the same for every a: the first example has no say in what the second
    contributes.
    """
    session = ort.InferenceSession(graph(build).SerializeToString(), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    w = generator.normal(size=(FEATURES, 3)).astype(np.float32)

    def run(*rows):
        x = np.stack([row[0] for row in rows])
        return float(session.run(None, {"params/w": w, "data/x": x, "data/y": np.array([row[1] for row in rows])})[0])

    rows = [(generator.normal(size=FEATURES).astype(np.float32), int(generator.integers(FEATURES))) for _ in range(4)]
    a, other, b, c = rows
    return abs((run(a, b) - run(a, c)) - (run(other, b) - run(other, c))) < 1e-4


def test_gradients_of_single_examples_add_up_where_the_proof_says_so():
    plan, params, data = logistic_plan(), logistic_params(), logistic_data(20)
    runner = Runner(plan)
    whole = runner.gradients(params, data)
    singles = list(runner.iter_gradients(params, data, [np.array([i]) for i in range(20)]))
    for name, gradient in whole.grads.items():
        mean = np.mean([single.grads[name] for single in singles], axis=0)
        np.testing.assert_allclose(gradient, mean, atol=1e-6)
