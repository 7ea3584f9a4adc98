"""From ATen operators to the closed list of ONNX operators of a plan."""

from pygrid.plans.authoring.lowering import elementwise, layers, lookup, ordering, padding, pools, reductions, shapes
from pygrid.plans.authoring.lowering.core import REGISTRY, Interpreter, find_lowering, unsupported_operator
from pygrid.plans.authoring.lowering.graph import IR_VERSION, OPSET, ClassLimit, LoweredGraph, LoweredValue

# Importing them fills the registry.
_MODULES = (elementwise, layers, lookup, ordering, padding, pools, reductions, shapes)

__all__ = [
    "IR_VERSION",
    "OPSET",
    "REGISTRY",
    "ClassLimit",
    "Interpreter",
    "LoweredGraph",
    "LoweredValue",
    "find_lowering",
    "unsupported_operator",
]
