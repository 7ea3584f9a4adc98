"""Records an author's program as a graph of ATen operators, for any batch size.

The batch size is one symbol, and every other size is a number. All arrays are fakes without content. The program runs
once under ``make_fx``, with gradients by ``torch.autograd.grad``. A second pass replaces operators that work in place.
The symbol's environment records what the program assumed about the batch size. An assumption that does not hold for
every batch size is an error, with the author's line.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from torch import fx
from torch._decomp import _core_aten_decompositions_post_autograd
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
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
    described,
    place_of_error,
    quiet,
)
from pygrid.plans.authoring.formulas import FORMULAS, VIEWS
from pygrid.plans.authoring.interception import Interception
from pygrid.plans.authoring.lowering import find_lowering, unsupported_operator
from pygrid.plans.authoring.noise import Shape
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
    """Integer inputs whose values are known not to be negative: never a marker such as -100."""
    dropout: bool = True
    """Whether dropout is on; it takes noise from inputs of the plan."""
    outputs: tuple[str, ...] = ("new/", "metrics/", "grads/", "predictions/", "avg/")
    """The names that belong to this program, among those that ``run`` returns; prefixes end with ``/``."""
    may_draw: bool = True
    """Whether the author's code may draw random numbers, from inputs of the plan."""
    noise_axes: tuple[int | None, ...] = ()
    """For each draw, the axis of its result that has the examples; None: one draw for the whole batch."""

    def has_output(self, name: str) -> bool:
        return any(name == own or (own.endswith("/") and name.startswith(own)) for own in self.outputs)


@dataclass(frozen=True)
class Trace:
    """A program as a graph: placeholders in the order of ``inputs``, results in the order of ``outputs``.

    Noise is not in ``inputs``: ``aten.rand`` nodes draw it, with the batch as their first axis.
    """

    module: fx.GraphModule
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    symbol: sympy.Symbol
    batch_norm: bool
    noise_axes: tuple[int | None, ...]
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

    def __init__(self, batch: Any, symbol: sympy.Symbol) -> None:
        self.batch, self.symbol = batch, symbol
        self.axes: list[int | None] = []

    def draw(self, shape: Shape, *, dropout: bool = False) -> torch.Tensor:
        shape = tuple(shape)
        axis = next((axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)), None)
        self.axes.append(axis)
        if axis is None:
            return self._rand(shape, dropout)[0]
        times = sympy.simplify(shape[axis].node.expr / self.symbol)
        rest = shape[axis + 1 :]
        if not times.is_Integer or any(isinstance(size, torch.SymInt) for size in rest):
            reason = "the plan set has no random numbers for an array whose size is not a multiple of the batch size"
            raise authoring_error(reason, current_place(), code=codes.PLAN_SHAPE)
        inner = () if times == 1 else (int(times),)
        return self._rand((*shape[:axis], *inner, *rest), dropout).movedim(0, axis).reshape(shape)

    def _rand(self, shape: Shape, dropout: bool) -> torch.Tensor:
        """Noise of this shape for each example; only other noise than dropout's names its dtype, for the lowering."""
        options = {} if dropout else {"dtype": torch.float32}
        return torch.ops.aten.rand.default((self.batch, *shape), **options)


@dataclass
class GivenNoise:
    """Returns the noise of the ports ``noise/...`` in the order of the calls, for the eager reference."""

    arrays: Sequence[torch.Tensor]
    axes: Sequence[int | None]
    """As `Program.noise_axes`."""
    used: int = 0

    def draw(self, shape: Shape, *, dropout: bool = False) -> torch.Tensor:
        array, axis = self.arrays[self.used], self.axes[self.used]
        self.used += 1
        return (array[0] if axis is None else array.movedim(0, axis)).reshape(tuple(shape))


def trace(program: Program, *, symbol_name: str) -> Trace:
    """The program as a functional ATen graph for every size of ``symbol_name``.

    Raises:
        AuthoringError: the program cannot be part of a plan; the message names the author's line.
    """
    for _ in range(2):  # once more, because another thread may have drawn
        before = _states_of_other_randomness()
        traced = _trace(program, symbol_name)
        drawn = [name for name, state in _states_of_other_randomness().items() if state != before[name]]
        if not drawn:
            return traced
    reason = (
        f"the {program.name} graph draws from {drawn[0]}, so every step would use the numbers of this build; draw with "
        "torch, for example torch.rand(x.shape[0])"
    )
    raise authoring_error(reason, None, code=codes.PLAN_RANDOM)


def _states_of_other_randomness() -> dict[str, Any]:
    """The states of the generators of Python and numpy, which a plan cannot use."""
    legacy = np.random.get_state(legacy=False)
    return {"random": random.getstate(), "numpy.random": (legacy["state"]["pos"], legacy["has_gauss"])}


def _trace(program: Program, symbol_name: str) -> Trace:
    sizes = _WatchedSizes()
    fakes = FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True)
    fakes.cache_enabled = False  # where sizes are symbols, a result from the cache takes longer than a new one
    source = ConstantSource(symbol_name)
    symbol = sizes.create_symbol(BATCH_HINT, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
    batch = sizes.create_symintnode(symbol, hint=BATCH_HINT, source=source)
    noise, operators = _TracedNoise(batch, symbol), _OperatorPlaces()
    mode = Interception(noise if program.may_draw else None, tracing=True, dropout=program.dropout)
    outputs: list[str] = []

    def fake(port: Port) -> torch.Tensor:
        shape = [batch if size == symbol_name else size for size in port.shape]
        return torch.empty(shape, dtype=TORCH_DTYPES[port.dtype])

    def flat(*arrays: torch.Tensor) -> list[torch.Tensor]:
        with mode, operators:
            results = program.run(dict(zip([port.name for port in program.inputs], arrays, strict=True)))
        outputs[:] = list(results)
        return list(results.values())

    with quiet(), _translated(program), fakes, enable_python_dispatcher():
        arguments = [fake(port) for port in program.inputs]
        module = make_fx(flat, _decompositions(), _allow_non_fake_inputs=True)(*arguments)
        _remove_copies(module)
        if any(_works_in_place(node) or node.target in VIEWS for node in module.graph.nodes):
            module = _without_mutation(module, arguments)
    _check_sizes(sizes, symbol)
    drawn = [node for node in module.graph.nodes if node.target is torch.ops.aten.rand.default]
    if len(drawn) != len(noise.axes):
        reason = (
            f"the {program.name} graph draws random numbers {len(noise.axes)} times, and {len(drawn)} of the draws are "
            "in the graph; remove draws that nothing uses"
        )
        raise authoring_error(reason, None, code=codes.PLAN_RANDOM)
    return Trace(
        module, program.inputs, tuple(outputs), symbol, mode.batch_norm_seen, tuple(noise.axes), operators.places
    )


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Decompositions to simpler operators, torch's own and others, except for operators that have a lowering here."""
    own = {op: rule for op, rule in _core_aten_decompositions_post_autograd().items() if find_lowering(op) is None}
    return own | FORMULAS


def _works_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _remove_copies(module: fx.GraphModule) -> None:
    """Replace each array that is overwritten as a whole by the array that overwrites it, if both have no other name.

    Torch decomposes an operator such as ``masked_fill_`` into ``masked_fill`` and a copy back. Without the copy, the
    program needs no second pass, which takes as long as the first one.
    """
    renamed: dict[fx.Node, fx.Node] = {}
    for node in list(module.graph.nodes):
        for used in node.all_input_nodes:
            if used in renamed:
                node.replace_input_with(used, renamed[used])
        if node.target is not torch.ops.aten.copy_.default:
            continue
        before, after = node.args[0], node.args[1]
        if _is_copy_of_all(before, after, node):
            node.replace_all_uses_with(after)
            module.graph.erase_node(node)
            renamed = {old: after if new is before else new for old, new in renamed.items()} | {before: after}
    module.recompile()


def _is_copy_of_all(before: Any, after: Any, copy: fx.Node) -> bool:
    """Whether a copy overwrites a new array with another new one of the same shape and dtype that nothing else uses."""
    if not (_is_new(before) and _is_new(after) and list(after.users) == [copy]):
        return False
    old, new = before.meta["val"], after.meta["val"]
    is_alone = all(user is copy or _is_new(user) for user in before.users if user.op != "output")
    return is_alone and old.dtype == new.dtype and [*map(str, old.shape)] == [*map(str, new.shape)]


def _is_new(node: Any) -> bool:
    """Whether a node makes one array, and not a view of another."""
    if not isinstance(node, fx.Node) or not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    return isinstance(node.meta.get("val"), torch.Tensor) and all(one.alias_info is None for one in returns)


def _without_mutation(module: fx.GraphModule, arguments: Sequence[torch.Tensor]) -> fx.GraphModule:
    def replay(*arrays: torch.Tensor) -> Any:
        return fx.Interpreter(module).run(*arrays)

    return make_fx(functionalize(replay), _decompositions() | VIEWS, _allow_non_fake_inputs=True)(*arguments)


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
                f"this, or the torch function called here, fixes the batch size to {BATCH_HINT}, the size of the "
                "example; work on whole batches (x.sum(0), not a loop over x), or write the function with others"
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
    except UnsupportedOperatorException as error:
        raise authoring_error(
            unsupported_operator(error.func), place_of_error(error), code=codes.PLAN_OPERATOR_UNSUPPORTED
        ) from error
    except Exception as error:  # any error of the author's code or torch; it is chained as the cause
        reason = (
            f"the {program.name} graph cannot be traced: {described(error)}. Torch runs this line on numbers, but "
            "cannot record it for every batch size; write it with other operators, or compute it before training and "
            "take it as data"
        )
        raise authoring_error(reason, place_of_error(error), code=codes.PLAN_TRACE_FAILED) from error
