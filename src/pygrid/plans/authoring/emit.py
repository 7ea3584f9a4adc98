"""Converts programs to ONNX graphs: traces once, then lowers what each graph needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx

from pygrid.plans.authoring.lowering import Interpreter, LoweredGraph
from pygrid.plans.authoring.predictions import PREDICT, narrowed
from pygrid.plans.authoring.tracing import Program, Trace, trace
from pygrid.plans.manifest import BATCH, Port


class Emitted:
    """An ONNX graph with its ports and the results of tracing."""

    def __init__(self, program: Program, traced: Trace, *, symbol_name: str) -> None:
        """Lower the part of a trace that a program's outputs need.

        Raises:
            AuthoringError: the message names the author's line.
        """
        prefix = f"noise/{program.name}_" if program.name == "eval" else "noise/"
        graph = LoweredGraph({traced.symbol: symbol_name}, bounded=program.bounded, noise_prefix=prefix)
        own = {port.name for port in program.inputs}
        arguments = [
            graph.input(
                port.name,
                port.dtype,
                [traced.symbol if size == symbol_name else size for size in port.shape],
                listed=port.name in own,
            )
            for port in traced.inputs
        ]
        values = Interpreter(graph, traced.module, traced.places).run(arguments)
        for name, value in zip(traced.outputs, values, strict=True):
            unchanged = name.startswith("new/buffers/") and value.name == name.removeprefix("new/")
            if program.has_output(name) and not unchanged:
                graph.output(name, value)
        model: onnx.ModelProto = graph.finish(program.name)
        self.traced = traced
        self.program = dataclasses.replace(program, noise_axes=traced.noise_axes)
        self.inputs: tuple[Port, ...] = tuple(graph.inputs)
        self.outputs: tuple[Port, ...] = tuple(graph.outputs)
        self.num_nodes = len(model.graph.node)
        self.exact: Mapping[str, float] = graph.exact
        self.ops = sorted({node.op_type for node in model.graph.node})
        self.batch_norm = traced.batch_norm
        self.limits = {name.removeprefix("data/"): limit for name, limit in graph.limits.items()}
        """What the graph requires of integer columns, by bare name."""
        self.data: bytes = model.SerializeToString(deterministic=True)

    @property
    def noise(self) -> dict[str, tuple[int, ...]]:
        """The shapes, per example, of the noise that the graph takes, by bare name."""
        ports = (port for port in self.inputs if port.name.startswith("noise/"))
        return {port.name.removeprefix("noise/"): tuple(int(size) for size in port.shape[1:]) for port in ports}


def emit_programs(whole: Program, parts: Sequence[Program], *, symbol_name: str = BATCH) -> dict[str, Emitted]:
    """The graphs of programs that are parts of one program, whose outputs include theirs.

    Raises:
        AuthoringError: the message names the author's line.
    """
    traced = trace(whole, symbol_name=symbol_name)
    own = (narrowed(part, traced) if part.name == PREDICT else part for part in parts)
    return {part.name: Emitted(part, traced, symbol_name=symbol_name) for part in own if part is not None}
