"""Pictures of plans: acyclic, without overlap, with each edge drawn or joined into a box."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidPlan
from pygrid.plans.picture import MAX_BOXES, DrawnGraph, GraphNode, Picture, draw, draw_in_child
from pygrid.ui.svg import draw_plan

PLANS = sorted((Path(__file__).parents[3] / "examples/plans").glob("*.plan"))
LAYERS = ["params/a.weight", "params/b.weight", "params/norm.bias"]


@st.composite
def graphs(draw_value: st.DrawFn) -> DrawnGraph:
    """Any graph in which values are made before they are read."""
    values = ["data/x", "data/y", *LAYERS]
    nodes = []
    for number in range(draw_value(st.integers(0, 90))):
        op = draw_value(st.sampled_from(["Add", "Mul", "Gemm", "Relu", "Reshape", "Cast", "Equal"]))
        read = draw_value(st.lists(st.sampled_from(values), max_size=3))
        made = [f"v{number}"] if draw_value(st.booleans()) else [f"v{number}", f"w{number}"]
        nodes.append(GraphNode(op, tuple(read), tuple(made)))
        values += made
    outputs = draw_value(st.lists(st.sampled_from(values), min_size=1, max_size=4, unique=True))
    return DrawnGraph(("data/x", "data/y", *LAYERS), tuple(outputs), tuple(nodes))


def check(picture: Picture) -> None:
    assert len(picture.boxes) <= MAX_BOXES
    for start, end in picture.edges:
        assert picture.boxes[start].rank < picture.boxes[end].rank
    places = {(box.rank, box.position) for box in picture.boxes}
    assert len(places) == len(picture.boxes), "two boxes overlap"
    drawing = draw_plan(picture)
    for one in drawing.boxes:
        assert one.x >= 0
        assert one.x + drawing.box_width <= drawing.width
        assert one.y + drawing.box_height <= drawing.height
    assert len(drawing.edges) == len(drawing.texts) == len(picture.edges)


@given(graphs())
def test_any_graph_is_drawn_without_cycles_and_overlaps(graph: DrawnGraph) -> None:
    check(draw(graph))


def test_the_steps_of_a_layer_and_a_chain_are_joined() -> None:
    graph = DrawnGraph(
        ("data/x", "params/fc.weight", "params/fc.bias"),
        ("metrics/loss",),
        (
            GraphNode("MatMul", ("data/x", "params/fc.weight"), ("a",)),
            GraphNode("Cast", ("a",), ("b",)),
            GraphNode("Add", ("b", "params/fc.bias"), ("c",)),
            GraphNode("Relu", ("c",), ("d",)),
            GraphNode("ReduceMean", ("d",), ("metrics/loss",)),
        ),
    )
    picture = draw(graph, "eval")
    assert [(box.kind, box.name, box.detail) for box in picture.boxes] == [
        ("input", "x", ""),
        ("layer", "fc", "MatMul, Add"),
        ("step", "Relu, ReduceMean", ""),
        ("result", "loss", ""),
    ]
    assert picture.edges == ((0, 1), (1, 2), (2, 3))
    assert draw_plan(picture).summary == "The graph eval of the plan: 5 operations from x to loss."


def test_a_layer_that_is_used_twice_makes_no_cycle() -> None:
    graph = DrawnGraph(
        ("data/x", "params/fc.weight"),
        ("out/y",),
        (
            GraphNode("MatMul", ("data/x", "params/fc.weight"), ("a",)),
            GraphNode("Relu", ("a",), ("b",)),
            GraphNode("MatMul", ("b", "params/fc.weight"), ("out/y",)),
        ),
    )
    assert [box.name for box in draw(graph).boxes] == ["x", "MatMul, Relu, MatMul", "y"]


def test_what_does_not_fit_is_counted() -> None:
    steps = [GraphNode("Add", ("data/x", "data/y"), (f"v{number}",)) for number in range(100)]
    picture = draw(DrawnGraph(("data/x", "data/y"), ("v99",), tuple(steps)))
    check(picture)
    assert [box.name for box in picture.boxes if box.kind == "rest"] == ["and 44 more"]


@pytest.mark.parametrize("path", PLANS[:1], ids=lambda path: path.stem)
def test_a_plan_is_drawn_in_a_child(path: Path) -> None:
    picture = draw_in_child(path.read_bytes())
    check(picture)
    assert picture.graph == "eval"
    with pytest.raises(InvalidPlan):
        draw_in_child(path.read_bytes()[:100])
