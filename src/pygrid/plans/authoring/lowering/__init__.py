"""From ATen operators to the closed list of ONNX operators of a plan."""

from pygrid.plans.authoring.lowering import elementwise, layers, ordering, padding, pools, shapes
from pygrid.plans.authoring.lowering.core import REGISTRY, Interpreter, find_lowering, unsupported_operator
from pygrid.plans.authoring.lowering.graph import IR_VERSION, OPSET, ClassLimit, LoweredGraph, LoweredValue

_MODULES = (elementwise, layers, ordering, padding, pools, shapes)  # importing them fills the registry

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
