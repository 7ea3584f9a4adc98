"""From a program to an ONNX graph: trace, lower, name the outputs."""

from __future__ import annotations

import onnx

from pygrid.plans.authoring.lowering import Graph, Interpreter
from pygrid.plans.authoring.tracing import Program, trace
from pygrid.plans.manifest import BATCH, Port


class Emitted:
    """An ONNX graph with its ports and what tracing found out."""

    def __init__(self, program: Program, *, symbol_name: str = BATCH) -> None:
        """Trace and lower ``program``.

        Raises:
            AuthoringError: with the author's line.
        """
        traced = trace(program, symbol_name=symbol_name)
        graph = Graph({traced.symbol: symbol_name}, bounded=program.bounded)
        sizes = {symbol_name: traced.symbol}
        arguments = [
            graph.input(port.name, port.dtype, [sizes.get(s, s) if isinstance(s, str) else s for s in port.shape])
            for port in traced.inputs
        ]
        values = Interpreter(graph, traced.module, traced.places).run(arguments)
        for name, value in zip(traced.outputs, values, strict=True):
            unchanged = name.startswith("new/buffers/") and value.name == name.removeprefix("new/")
            if not unchanged:
                graph.output(name, value)
        model: onnx.ModelProto = graph.finish(program.name)
        self.program = program
        self.inputs: tuple[Port, ...] = tuple(graph.inputs)
        self.outputs: tuple[Port, ...] = tuple(graph.outputs)
        self.num_nodes = len(model.graph.node)
        self.ops = sorted({node.op_type for node in model.graph.node})
        self.noise = dict(traced.noise)
        self.batch_norm = traced.batch_norm
        self.data: bytes = model.SerializeToString(deterministic=True)
