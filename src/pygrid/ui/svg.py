"""Pictures as SVG: the coordinates of what templates draw."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pygrid.plans.picture import Box, Picture
from pygrid.units import decimal

BOX_WIDTH, BOX_HEIGHT = 180, 44
GAP_X, GAP_Y = 24, 28
MARGIN = 8


class BoxShape(msgspec.Struct, frozen=True):
    """A box and its upper left corner."""

    kind: str
    name: str
    detail: str
    x: int
    y: int


class Sparkline(msgspec.Struct, frozen=True):
    """A small curve of a metric, 120 wide and 24 high."""

    points: str
    summary: str


def draw_curve(name: str, values: Sequence[float]) -> Sparkline:
    """Return the curve of at least two finite values."""
    low, high = min(values), max(values)
    step, scale = 116 / (len(values) - 1), 20 / (high - low) if high > low else 0.0
    points = " ".join(f"{2 + step * at:.1f},{22 - scale * (value - low):.1f}" for at, value in enumerate(values))
    return Sparkline(points, f"{name} from {decimal(values[0], 3)} to {decimal(values[-1], 3)} in {len(values)} cycles")


class PlanDrawing(msgspec.Struct, frozen=True):
    """A plan as a drawing from the inputs at the top to the results at the bottom."""

    width: int
    height: int
    box_width: int
    box_height: int
    boxes: list[BoxShape]
    edges: list[str]
    """The path of each edge."""
    summary: str
    texts: list[str]
    """The edges in words."""


def draw_plan(picture: Picture) -> PlanDrawing:
    row_width = picture.width * (BOX_WIDTH + GAP_X) - GAP_X
    counts: dict[int, int] = {}
    for box in picture.boxes:
        counts[box.rank] = counts.get(box.rank, 0) + 1
    shapes = [_shape(box, row_width, counts[box.rank]) for box in picture.boxes]
    edges = []
    for start, end in picture.edges:
        x1, y1 = shapes[start].x + BOX_WIDTH // 2, shapes[start].y + BOX_HEIGHT
        x2, y2 = shapes[end].x + BOX_WIDTH // 2, shapes[end].y
        bend = GAP_Y // 2
        edges.append(f"M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}")
    inputs = ", ".join(box.name for box in picture.boxes if box.kind == "input")
    results = ", ".join(box.name for box in picture.boxes if box.kind == "result")
    return PlanDrawing(
        2 * MARGIN + max(row_width, BOX_WIDTH),
        2 * MARGIN + picture.num_ranks * (BOX_HEIGHT + GAP_Y) - GAP_Y,
        BOX_WIDTH,
        BOX_HEIGHT,
        shapes,
        edges,
        f"The graph {picture.graph} of the plan: {picture.num_nodes} operations from {inputs} to {results}.",
        [f"{_name(picture.boxes[start])} leads to {_name(picture.boxes[end])}" for start, end in picture.edges],
    )


def _shape(box: Box, row_width: int, count: int) -> BoxShape:
    # Rows are centred.
    begin = MARGIN + (row_width - count * (BOX_WIDTH + GAP_X) + GAP_X) // 2
    x = begin + box.position * (BOX_WIDTH + GAP_X)
    return BoxShape(box.kind, box.name, box.detail, x, MARGIN + box.rank * (BOX_HEIGHT + GAP_Y))


def _name(box: Box) -> str:
    return f"{box.name} ({box.detail})" if box.detail else box.name
