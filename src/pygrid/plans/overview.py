"""A plan at a glance, as a picture: for each graph what goes in, how large it is, and what comes out."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from pygrid.plans.manifest import Graph, Manifest, Port

_LINE, _BOX, _GAP, _TEXT = 18, 200, 60, 12
_WIDTH = 3 * _BOX + 2 * _GAP + 2
_MAX_LINES, _MAX_CHARS = 8, 30
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_GRAPHS = {
    "train": "one step of training",
    "grads": "gradients of a batch",
    "eval": "metrics of a batch",
    "predict": "predictions",
    "average": "average of the diffs",
}


def svg(manifest: Manifest) -> str:
    """The picture as SVG, with all texts escaped."""
    parts, top = [], 1
    for name, graph in manifest.graphs.items():
        drawn, height = _row(name, graph, top)
        parts.append(drawn)
        top += height + _LINE
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{top}' viewBox='0 0 {_WIDTH} {top}' "
        f"role='img' aria-label='plan {html.escape(manifest.name, quote=True)}' "
        f"style='max-width:100%;font:{_TEXT}px sans-serif;background:#fff'>{''.join(parts)}</svg>"
    )


def _row(name: str, graph: Graph, top: int) -> tuple[str, int]:
    """One graph with its inputs and outputs, and the height of the row."""
    work = [name, _GRAPHS.get(name, ""), f"{graph.num_nodes:,} operations"]
    columns = [_ports(graph.inputs), work, _ports(graph.outputs)]
    height = _LINE * max(map(len, columns)) + 10
    boxes = []
    for place, lines in enumerate(columns):
        left = 1 + place * (_BOX + _GAP)
        fill = "#e8f0fe" if place == 1 else "#f6f6f6"
        box = f"x='{left}' y='{top}' width='{_BOX}' height='{height}' rx='4' fill='{fill}' stroke='#888'"
        boxes.append(f"<rect {box}/>")
        boxes += [
            f"<text x='{left + 8}' y='{top + _LINE * (number + 1)}' fill='#222'>{html.escape(line)}</text>"
            for number, line in enumerate(lines)
        ]
        if place:
            middle, end = top + height // 2, left - 2
            boxes.append(f"<path d='M{left - _GAP} {middle}H{end}m-7-5l7 5-7 5' fill='none' stroke='#888'/>")
    return "".join(boxes), height


def _ports(ports: Sequence[Port]) -> list[str]:
    """The ports in lines: model, optimizer and noise as totals, all others one by one."""
    totals: dict[str, int] = {}
    lines = []
    for port in ports:
        kind, _, name = port.name.removeprefix("new/").partition("/")
        if kind in ("params", "buffers", "grads", "state", "noise", "diffs", "avg", "item"):
            totals[kind] = totals.get(kind, 0) + math.prod(size for size in port.shape if isinstance(size, int))
        else:
            shape = f" {'x'.join(map(str, port.shape))}" if port.shape else ""
            lines.append(f"{kind} {name}{shape}" if name else kind)
    found = [*(f"{kind}: {num:,} numbers" for kind, num in totals.items()), *lines]
    if len(found) > _MAX_LINES:
        found = [*found[: _MAX_LINES - 1], f"and {len(found) - _MAX_LINES + 1} more"]
    return [line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 1] + _ELLIPSIS for line in found]
