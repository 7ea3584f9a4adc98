"""Makes vectors.json: for each plan in this folder, one call on the inputs of the self-test formula and what comes out.

Python and JavaScript both read it (docs/reference/plan-format.md, section 5). Run it after adding a plan:

    python tests/vectors/plans/make.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pygrid.plans import Plan, selftest_inputs
from pygrid.plans.selftest import selftest_graph
from pygrid.plans.sessions import OnnxSession

HERE = Path(__file__).parent
BATCH_SIZE = 3
FIRST = 4


def vector(path: Path) -> dict[str, Any]:
    """What a runner must find for one plan: sums and first elements of inputs and outputs, by port."""
    plan = Plan.load(path)
    name = selftest_graph(plan.manifest)
    inputs = selftest_inputs(plan.manifest, BATCH_SIZE)
    names = [port.name for port in plan.manifest.graphs[name].outputs]
    outputs = dict(zip(names, OnnxSession(plan.graph(name), name=name).run(names, inputs), strict=True))
    return {
        "file": path.name,
        "id": plan.id,
        "graph": name,
        "batch_size": BATCH_SIZE,
        "inputs": {port: digest(array) for port, array in inputs.items()},
        "outputs": {port: digest(array) for port, array in outputs.items()},
    }


def digest(array: Any) -> dict[str, Any]:
    flat = array.reshape(-1).astype("float64")
    return {
        "shape": list(array.shape),
        "sum": round(float(flat.sum()), 5),
        "first": [round(float(v), 6) for v in flat[:FIRST]],
    }


def make() -> list[dict[str, Any]]:
    """The vectors of all plans in this folder that train."""
    paths = sorted(HERE.glob("*.plan"))
    return [vector(path) for path in paths if Plan.load(path).manifest.kind == "training"]


if __name__ == "__main__":
    (HERE / "vectors.json").write_text(json.dumps(make(), indent=1) + "\n")
