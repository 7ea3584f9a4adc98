"""Plans that average, and diffs for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pygrid.plans import Plan
from support.plans.handmade import GraphBuilder, f32
from support.plans.variants import make_plan

SHAPES = {"w": (3, 2), "b": (2,)}
AVERAGING: dict[str, Any] = {"kind": "averaging", "data": {}, "metrics": {}}


def iterative_plan() -> Plan:
    """The running mean: (avg * num + item) / (num + 1)."""
    g = GraphBuilder()
    more = g.op("Add", "num", g.const(np.ones(1, np.float32)))
    for name in SHAPES:
        total = g.op("Add", g.op("Mul", f"avg/{name}", "num"), f"item/{name}")
        g.op("Div", total, more, out=f"new/avg/{name}")
    inputs = (*(f32(f"{side}/{n}", *s) for side in ("avg", "item") for n, s in SHAPES.items()), f32("num", 1))
    outputs = tuple(f32(f"new/avg/{n}", *s) for n, s in SHAPES.items())
    return Plan.from_bytes(make_plan({"average": (g, inputs, outputs)}, iterative=True, **AVERAGING))


def all_at_once_plan(op: str = "ReduceMean", spoil: str | None = None) -> Plan:
    g = GraphBuilder()
    for name in SHAPES:
        value = g.op(spoil, f"diffs/{name}") if spoil else f"diffs/{name}"
        g.op(op, value, g.ints(0), keepdims=0, out=f"avg/{name}")
    inputs = tuple(f32(f"diffs/{n}", "num_diffs", *s) for n, s in SHAPES.items())
    outputs = tuple(f32(f"avg/{n}", *s) for n, s in SHAPES.items())
    return Plan.from_bytes(make_plan({"average": (g, inputs, outputs)}, **AVERAGING))


def diffs(count: int = 5) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [{n: generator.normal(size=s).astype(np.float32) for n, s in SHAPES.items()} for _ in range(count)]


PLANS = {"iterative": iterative_plan(), "all at once": all_at_once_plan()}
