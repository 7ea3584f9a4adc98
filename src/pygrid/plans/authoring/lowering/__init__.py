"""From ATen operators to the closed list of ONNX operators of a plan."""

from pygrid.plans.authoring.lowering import elementwise, layers, shapes
from pygrid.plans.authoring.lowering.core import REGISTRY, Interpreter, find_lowering
from pygrid.plans.authoring.lowering.graph import IR_VERSION, OPSET, LoweredGraph, LoweredValue

_MODULES = (elementwise, layers, shapes)  # importing them fills the registry

__all__ = ["IR_VERSION", "OPSET", "REGISTRY", "Interpreter", "LoweredGraph", "LoweredValue", "find_lowering"]
