"""Records an author's program as a graph of ATen operators, for any batch size.

The batch size is one symbol, and every other size is a number. All arrays are fakes without content. The program runs
once under ``make_fx``, with gradients by ``torch.autograd.grad``. A second pass replaces operators that work in place.
The symbol's environment records what the program assumed about the batch size. An assumption that does not hold for
every batch size is an error, with the author's line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch._decomp import _core_aten_decompositions_post_autograd
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, GuardOnDataDependentSymNode, ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.authoring.diagnostics import (
    SourceLocation,
    authoring_error,
    current_place,
    decided_by_torch,
    place_of_error,
)
from pygrid.plans.authoring.interception import Interception
from pygrid.plans.authoring.lowering import find_lowering
from pygrid.plans.manifest import Port

BATCH_HINT = 7
"""The batch size while the program is traced; a prime, so that a program does not use it by accident."""
_CHECKED_SIZES = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 31, 32, 50, 64, 100, 128, 256, 1000, 1024)

TORCH_DTYPES = {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}

Arrays = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Program:
    """A function from named arrays to named arrays, and the ports that it reads, in order."""

    name: str
    inputs: tuple[Port, ...]
    run: Callable[[Arrays], Arrays]
    bounded: frozenset[str] = frozenset()
    """Integer inputs whose values are known to be valid classes, never a marker such as -100."""
    dropout: bool = True
    """Whether dropout takes noise from inputs of the plan; if not, dropout is off."""
    outputs: tuple[str, ...] = ("",)
    """Prefixes of the names that belong to this program, among those that ``run`` returns."""


@dataclass(frozen=True)
class Trace:
    """A program as a graph: placeholders in the order of ``inputs``, results in the order of ``outputs``.

    Noise is not in ``inputs``: ``aten.rand`` nodes draw it.
    """

    module: fx.GraphModule
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    symbol: sympy.Symbol
    batch_norm: bool
    places: Mapping[str, SourceLocation]
    """The author's first line that used an operator, by the operator's name."""


class _WatchedSizes(ShapeEnv):  # type: ignore[misc]
    """Records the author's line for each assumption about the batch size."""

    def __init__(self) -> None:
        super().__init__(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
        self.assumed: list[tuple[Any, SourceLocation | None, bool]] = []

    def evaluate_expr(self, *args: Any, **kwargs: Any) -> Any:
        before = len(self.guards)
        result = super().evaluate_expr(*args, **kwargs)
        if len(self.guards) > before:
            assumption = (current_place(), decided_by_torch())
            self.assumed.extend((guard.expr, *assumption) for guard in self.guards[before:])
        return result


class _OperatorPlaces(TorchDispatchMode):  # type: ignore[misc]
    """Records the author's line for each operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, SourceLocation] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name not in self.places and (place := current_place()) is not None:
            self.places[name] = place
        return func(*args, **(kwargs or {}))


class _TracedNoise:
    """Turns each draw of a traced program into an operator ``aten.rand``, which is lowered to an input of the plan."""

    def __init__(self) -> None:
        self.num_draws = 0

    def draw(self, like: torch.Tensor, axes: int | None = None) -> torch.Tensor:
        self.num_draws += 1
        return torch.ops.aten.rand.default(noise_shape(like, axes))


@dataclass
class GivenNoise:
    """Returns the noise of the ports ``noise/dropoutK`` in the order of the calls, for the eager reference."""

    arrays: Sequence[torch.Tensor]
    used: int = 0

    def draw(self, like: torch.Tensor, axes: int | None = None) -> torch.Tensor:
        self.used += 1
        return self.arrays[self.used - 1].reshape(noise_shape(like, axes))


def noise_shape(like: torch.Tensor, axes: int | None) -> tuple[Any, ...]:
    """The shape of the noise for an array; with ``axes``, one number for all elements after these axes."""
    shape = tuple(like.shape)
    return shape if axes is None else shape[:axes] + (1,) * (len(shape) - axes)


def trace(program: Program, *, symbol_name: str) -> Trace:
    """The program as a functional ATen graph for every size of ``symbol_name``.

    Raises:
        AuthoringError: the program cannot be part of a plan; the message names the author's line.
    """
    sizes = _WatchedSizes()
    fakes = FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True)
    source = ConstantSource(symbol_name)
    symbol = sizes.create_symbol(BATCH_HINT, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
    batch = sizes.create_symintnode(symbol, hint=BATCH_HINT, source=source)
    noise, operators = _TracedNoise(), _OperatorPlaces()
    mode = Interception(noise if program.dropout else None, tracing=True)
    outputs: list[str] = []

    def fake(port: Port) -> torch.Tensor:
        shape = [batch if size == symbol_name else size for size in port.shape]
        return torch.empty(shape, dtype=TORCH_DTYPES[port.dtype])

    def flat(*arrays: torch.Tensor) -> list[torch.Tensor]:
        with mode, operators:
            results = program.run(dict(zip([port.name for port in program.inputs], arrays, strict=True)))
        outputs[:] = list(results)
        return list(results.values())

    with _translated(program), fakes, enable_python_dispatcher():
        arguments = [fake(port) for port in program.inputs]
        module = make_fx(flat, _decompositions(), _allow_non_fake_inputs=True)(*arguments)
        if any(_works_in_place(node) for node in module.graph.nodes):
            module = _without_mutation(module, arguments)
    _check_sizes(sizes, symbol)
    drawn = [node for node in module.graph.nodes if node.target is torch.ops.aten.rand.default]
    assert len(drawn) == noise.num_draws, "each draw is in the graph, in the order of the calls"
    return Trace(module, program.inputs, tuple(outputs), symbol, mode.batch_norm_seen, operators.places)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's own decompositions to simpler operators, except for operators that have a lowering here."""
    return {op: rule for op, rule in _core_aten_decompositions_post_autograd().items() if find_lowering(op) is None}


def _works_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _without_mutation(module: fx.GraphModule, arguments: Sequence[torch.Tensor]) -> fx.GraphModule:
    def replay(*arrays: torch.Tensor) -> Any:
        return fx.Interpreter(module).run(*arrays)

    return make_fx(functionalize(replay), _decompositions(), _allow_non_fake_inputs=True)(*arguments)


def _check_sizes(sizes: _WatchedSizes, symbol: sympy.Symbol) -> None:
    """Refuse a program that assumes the batch size of the example, or a range of sizes.

    Torch itself compares sizes to choose the faster of two equal ways. This does not matter, because a plan does not
    use torch's kernels.
    """
    for assumption, place, by_torch in sizes.assumed:
        if assumption.free_symbols != {symbol}:
            continue
        if isinstance(assumption, sympy.Eq):
            reason = (
                f"this fixes the batch size to {BATCH_HINT}, the size of the example; "
                "work on whole batches (x.sum(0), not a loop over x)"
            )
            raise authoring_error(reason, place, code=codes.PLAN_BATCH_BAKED)
        if not by_torch and not all(assumption.subs(symbol, size) == sympy.true for size in _CHECKED_SIZES):
            reason = f"this depends on the batch size ({assumption}); a plan does the same at every batch size"
            raise authoring_error(reason, place, code=codes.PLAN_BATCH_BAKED)


@contextlib.contextmanager
def _translated(program: Program) -> Iterator[None]:
    """Convert errors of the tracer to errors for the author."""
    try:
        yield
    except AuthoringError:
        raise
    except (GuardOnDataDependentSymNode, DataDependentOutputException) as error:
        reason = "a plan cannot decide on data or take a number out of a tensor; use torch.where and keep it a tensor"
        raise authoring_error(reason, place_of_error(error), code=codes.PLAN_DATA_DEPENDENT) from error
    except DynamicOutputShapeException as error:
        reason = "the size of the result depends on data; multiply by a mask"
        raise authoring_error(reason, place_of_error(error), code=codes.PLAN_DATA_DEPENDENT_SIZE) from error
    except Exception as error:  # any error of the author's code or torch; it is chained as the cause
        reason = f"the {program.name} graph cannot be traced: {type(error).__name__}: {error}"
        raise authoring_error(reason, place_of_error(error), code=codes.PLAN_TRACE_FAILED) from error
