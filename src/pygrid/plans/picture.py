"""A picture of a plan: boxes for its inputs, steps and results, and the edges between them.

`draw` is pure. It leaves out constants and steps that only change the form of an array, joins the steps that use the
parameters of one layer and chains of steps without a branch, ranks the rest by the longest path from an input, and
orders each rank so that few edges cross (barycentre method: Sugiyama, Tagawa, Toda, IEEE SMC 1981).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from pygrid import codes
from pygrid.errors import InvalidPlan
from pygrid.plans.archive import Plan
from pygrid.plans.text import one_line
from pygrid.sandbox.child import ChildSandbox
from pygrid.sandbox.process import ChildLimits, run

MAX_BOXES = 60
_MAX_NAME, _MAX_STEPS = 24, 4
_SWEEPS = 4
_GRAPHS = ("eval", "grads", "predict", "train", "average")
"""The graph that is drawn: the first one that the plan has."""
_FORM = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_LIMITS = ChildLimits(memory_bytes=1024**3, cpu_s=10, wall_s=20.0, max_output_bytes=1024**2)

BoxKind = Literal["input", "layer", "step", "result", "rest"]


class GraphNode(msgspec.Struct, frozen=True):
    """An operation of a graph, with the names of the values that it reads and makes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class DrawnGraph(msgspec.Struct, frozen=True):
    """A graph without its constants, in an order in which each value is made before it is read."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[GraphNode, ...]


class Box(msgspec.Struct, frozen=True):
    """A box: ``rank`` counts from the inputs on, ``position`` within the rank."""

    kind: BoxKind
    name: str
    detail: str
    rank: int
    position: int


class Picture(msgspec.Struct, frozen=True):
    """Boxes, and edges as pairs of their numbers; an edge leads to a larger rank."""

    graph: str
    """Name of the graph that is drawn."""
    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int], ...]
    num_nodes: int
    """Operations of the graph."""

    @property
    def num_ranks(self) -> int:
        return max((box.rank for box in self.boxes), default=-1) + 1

    @property
    def width(self) -> int:
        """Number of boxes of the largest rank."""
        return max((box.position for box in self.boxes), default=-1) + 1


def draw_in_child(data: bytes) -> Picture:
    """Return the picture of a plan, drawn in a child process, as a plan is untrusted. Blocks.

    Raises:
        InvalidPlan: the plan cannot be read; or ``plan_check_failed``: the child did not finish.
    """
    reply = run(draw_parts, [data], limits=_LIMITS, failed=_failed)
    if reply.error is not None:
        raise InvalidPlan(reply.error.detail, code=reply.error.code)
    try:
        return msgspec.json.decode(reply.value, type=Picture)
    except msgspec.DecodeError as error:
        raise _failed("its answer cannot be read") from error


def draw_parts(parts: list[bytes], sandbox: ChildSandbox) -> bytes:
    """Run in the child process of `draw_in_child`."""
    from pygrid.plans.operators.values import OPSET
    from pygrid.plans.structure import parse_graph

    (data,) = parts
    sandbox.enter()
    plan = Plan.from_bytes(data)
    name = next(one for one in _GRAPHS if one in plan.manifest.graphs)
    model = parse_graph(name, plan.graph(name), range(OPSET, OPSET + 1))
    return msgspec.json.encode(draw(_read(model.graph), name))


def _failed(why: str) -> InvalidPlan:
    return InvalidPlan(f"the plan could not be drawn within the limits: {why}", code=codes.PLAN_CHECK_FAILED)


def _read(graph: Any) -> DrawnGraph:
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    nodes = (
        GraphNode(node.op_type, tuple(name for name in node.input if name and name not in constants), (*node.output,))
        for node in graph.node
        if node.op_type != "Constant"
    )
    inputs = tuple(port.name for port in graph.input if port.name not in constants)
    return DrawnGraph(inputs, tuple(port.name for port in graph.output), tuple(nodes))


def draw(graph: DrawnGraph, name: str = "") -> Picture:
    """Return the picture of a graph."""
    sources, steps = _sources(graph)
    groups = _join_chains(_join_layers(steps, sources), steps, sources)
    makers = {value: group for group, members in groups.items() for index in members for value in steps[index].outputs}
    labels: dict[str, tuple[BoxKind, str, str]] = {}
    edges: set[tuple[str, str]] = set()
    read = {sources.get(value, value) for step in steps for value in step.inputs}
    read |= {sources.get(value, value) for value in graph.outputs}
    for port in graph.inputs:
        if not _is_parameter(port) and port in read:
            labels[f"in {port}"] = ("input", _short(port), "")
    for group, members in groups.items():
        ops = [steps[index].op for index in members]
        layer = group.removeprefix("layer ") if group.startswith("layer ") else ""
        shown = ", ".join(ops[:_MAX_STEPS]) + (f" and {len(ops) - _MAX_STEPS} more" if len(ops) > _MAX_STEPS else "")
        labels[group] = ("layer", layer, shown) if layer else ("step", shown, "")
        for value in (sources.get(one, one) for index in members for one in steps[index].inputs):
            start = makers.get(value, f"in {value}")
            if start != group and (start in makers.values() or start in labels):
                edges.add((start, group))
    for port in graph.outputs:
        labels[f"out {port}"] = ("result", _short(port), "")
        value = sources.get(port, port)
        start = makers.get(value, f"in {value}")
        if start in labels:
            edges.add((start, f"out {port}"))
    labels, edges = _cut(labels, edges)
    return _arrange(name, labels, edges, len(graph.nodes))


def _sources(graph: DrawnGraph) -> tuple[dict[str, str], list[GraphNode]]:
    """Return the value behind each value that only has another form, and the other nodes."""
    sources: dict[str, str] = {}
    steps = []
    for node in graph.nodes:
        if node.op in _FORM and node.inputs:
            root = sources.get(node.inputs[0], node.inputs[0])
            sources |= dict.fromkeys(node.outputs, root)
        elif node.inputs:
            steps.append(node)
        # A node without inputs makes a constant.
    return sources, steps


def _is_parameter(name: str) -> bool:
    return name.startswith(("params/", "buffers/"))


def _layer_of(step: GraphNode, sources: Mapping[str, str]) -> str:
    for value in step.inputs:
        root = sources.get(value, value)
        if _is_parameter(root):
            return root.partition("/")[2].rpartition(".")[0] or root.partition("/")[2]
    return ""


def _join_layers(steps: Sequence[GraphNode], sources: Mapping[str, str]) -> dict[str, list[int]]:
    """Return the numbers of the steps of each group: a layer, or a single step. The groups have no cycle."""
    layers = [_layer_of(step, sources) for step in steps]
    apart: set[str] = set()
    while True:
        groups: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            key = f"layer {layer}" if layer and layer not in apart else f"step {index}"
            groups.setdefault(key, []).append(index)
        cyclic = _cyclic(groups, steps, sources)
        found = {group.removeprefix("layer ") for group in cyclic if group.startswith("layer ")}
        if not found:
            return groups
        apart |= found


def _links(
    groups: Mapping[str, list[int]], steps: Sequence[GraphNode], sources: Mapping[str, str]
) -> set[tuple[str, str]]:
    makers = {value: group for group, members in groups.items() for index in members for value in steps[index].outputs}
    links = set()
    for group, members in groups.items():
        for value in (sources.get(one, one) for index in members for one in steps[index].inputs):
            start = makers.get(value, group)
            if start != group:
                links.add((start, group))
    return links


def _cyclic(groups: Mapping[str, list[int]], steps: Sequence[GraphNode], sources: Mapping[str, str]) -> set[str]:
    """Return the groups that are part of a cycle, or lie behind one."""
    return set(groups) - set(_ranks(groups, _links(groups, steps, sources)))


def _ranks(names: Iterable[str], edges: set[tuple[str, str]]) -> dict[str, int]:
    """Return the length of the longest path to each name; without those behind a cycle."""
    following: dict[str, list[str]] = {name: [] for name in names}
    waits = dict.fromkeys(following, 0)
    for start, end in edges:
        following[start].append(end)
        waits[end] += 1
    ready = [name for name, count in waits.items() if count == 0]
    ranks = dict.fromkeys(ready, 0)
    while ready:
        name = ready.pop()
        for end in following[name]:
            ranks[end] = max(ranks.get(end, 0), ranks[name] + 1)
            waits[end] -= 1
            if waits[end] == 0:
                ready.append(end)
    return {name: rank for name, rank in ranks.items() if waits[name] == 0}


def _join_chains(
    groups: dict[str, list[int]], steps: Sequence[GraphNode], sources: Mapping[str, str]
) -> dict[str, list[int]]:
    """Join steps without parameters that follow each other and have no other neighbor."""
    links = _links(groups, steps, sources)
    after: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}
    for start, end in links:
        after.setdefault(start, set()).add(end)
        before.setdefault(end, set()).add(start)
    ports: dict[str, int] = {}
    for group, members in groups.items():
        made = {value for index in members for value in steps[index].outputs}
        read = {sources.get(value, value) for index in members for value in steps[index].inputs}
        ports[group] = len({value for value in read - made if value.startswith("data/") or value.startswith("hyper/")})
    joined: dict[str, list[int]] = {}
    home: dict[str, str] = {}
    for group in groups:
        previous = before.get(group, set())
        into = next(iter(previous)) if len(previous) == 1 else ""
        if group.startswith("step ") and into.startswith("step ") and len(after[into]) == 1 and not ports[group]:
            home[group] = home[into]
            joined[home[group]] += groups[group]
        else:
            home[group] = group
            joined[group] = list(groups[group])
    return joined


def _cut(
    labels: dict[str, tuple[BoxKind, str, str]], edges: set[tuple[str, str]]
) -> tuple[dict[str, tuple[BoxKind, str, str]], set[tuple[str, str]]]:
    """Replace the last steps by one box if there are too many boxes."""
    if len(labels) <= MAX_BOXES:
        return labels, edges
    ranks = _ranks(labels, edges)
    ends = [name for name in labels if labels[name][0] in ("input", "result")][: MAX_BOXES - 2]
    steps = sorted((name for name in labels if labels[name][0] not in ("input", "result")), key=lambda one: ranks[one])
    kept = {*ends, *steps[: MAX_BOXES - 1 - len(ends)]}
    rest = "rest"
    num_rest = len(labels) - len(kept)
    shown = {name: label for name, label in labels.items() if name in kept}
    shown[rest] = ("rest", f"and {num_rest} more", "")

    def home(name: str) -> str:
        return name if name in kept else rest

    moved = {(home(start), home(end)) for start, end in edges}
    moved = {(start, end) for start, end in moved if start != end}
    # What does not fit lies at the end, so nothing that is kept follows it, except results.
    return shown, {(start, end) for start, end in moved if start != rest or shown[end][0] == "result"}


def _arrange(
    name: str, labels: Mapping[str, tuple[BoxKind, str, str]], edges: set[tuple[str, str]], num_nodes: int
) -> Picture:
    ranks = _ranks(labels, edges)
    rows: list[list[str]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for label in labels:
        rows[ranks[label]].append(label)
    before: dict[str, list[str]] = {label: [] for label in labels}
    after: dict[str, list[str]] = {label: [] for label in labels}
    for start, end in sorted(edges):
        before[end].append(start)
        after[start].append(end)
    place = {label: index for row in rows for index, label in enumerate(row)}
    for sweep in range(_SWEEPS):
        near = before if sweep % 2 == 0 else after
        for row in rows if sweep % 2 == 0 else reversed(rows):
            row.sort(key=_centre(near, place))
            place |= {label: index for index, label in enumerate(row)}
    order = [label for row in rows for label in row]
    numbers = {label: number for number, label in enumerate(order)}
    boxes = tuple(Box(*labels[label], ranks[label], place[label]) for label in order)
    return Picture(name, boxes, tuple(sorted((numbers[a], numbers[b]) for a, b in edges)), num_nodes)


def _centre(near: Mapping[str, list[str]], place: Mapping[str, int]) -> Callable[[str], float]:
    def centre(label: str) -> float:
        around = near[label]
        return sum(place[one] for one in around) / len(around) if around else float(place[label])

    return centre


def _short(port: str) -> str:
    return one_line(port.partition("/")[2] or port, _MAX_NAME)
