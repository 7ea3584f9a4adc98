"""Types for the inputs of a plan: columns of data and hyperparameters.

pygrid.Tensor["batch", 1, 28, 28]                          float32 examples of shape [1, 28, 28]
pygrid.Tensor["batch", 64].meaning("8x8 image in 0..1")    ... with text to compare with a dataset
pygrid.Tensor["batch", 64].optional()                      ... in which values can be missing: they arrive as NaN
pygrid.Integers["batch", 20](1000)                         int64 tokens in [0, 1000)
pygrid.Label(10)                                           one int64 class in [0, 10) per example
pygrid.Float(0.1, min=1e-5, max=1.0)                       a hyperparameter, its default and its range
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import msgspec

from pygrid import codes
from pygrid.errors import AuthoringError
from pygrid.plans.manifest import BATCH, DataPort, DType, Hyper


@dataclass(frozen=True)
class DataSpec:
    """A column of data: dtype and shape of one example."""

    dtype: DType
    shape: tuple[int, ...]
    words: str = ""
    num_classes: int | None = None
    is_optional: bool = False

    def meaning(self, words: str) -> DataSpec:
        """The same column with a description, for example ``image 1x28x28 in 0..1``."""
        return replace(self, words=words)

    def optional(self) -> DataSpec:
        """The same column with values that can be missing: they arrive as NaN, and the plan must handle them.

        Raises:
            AuthoringError: ``plan_port``: the column holds integers, which have no NaN.
        """
        if self.dtype != "float32":
            raise AuthoringError(
                f"a port of {self.dtype} cannot be optional: only float32 has NaN", code=codes.PLAN_PORT
            )
        return replace(self, is_optional=True)

    def port(self) -> DataPort:
        optional = True if self.is_optional else msgspec.UNSET
        return DataPort(self.dtype, self.shape, self.words, self.num_classes, optional)


@dataclass(frozen=True)
class IntegerSpec(DataSpec):
    """A column of integers; call it with the number of different values to bound them."""

    def __call__(self, num_classes: int) -> DataSpec:
        _positive(num_classes, "num_classes")
        words = self.words or f"integers 0..{num_classes - 1}"
        return DataSpec(self.dtype, self.shape, words, num_classes)


def _positive(number: object, what: str) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise AuthoringError(f"{what} must be a whole number of at least 1, got {number!r}", code=codes.PLAN_PORT)


def _example_shape(kind: str, dims: object) -> tuple[int, ...]:
    sizes = dims if isinstance(dims, tuple) else (dims,)
    if not sizes or sizes[0] != BATCH:
        raise AuthoringError(
            f'the first dimension of {kind} must be "{BATCH}", as in pygrid.{kind}["{BATCH}", 64]; got {list(sizes)}',
            code=codes.PLAN_PORT,
        )
    for size in sizes[1:]:
        _positive(size, f"each size after the batch in {kind}[...]")
    return tuple(sizes[1:])


class _TensorType(type):
    """Makes ``Tensor[...]`` an expression that type checkers understand; they refuse ``__class_getitem__``."""

    def __getitem__(cls, dims: object) -> DataSpec:
        return DataSpec("float32", _example_shape("Tensor", dims))


class Tensor(metaclass=_TensorType):
    """Float32 data: ``pygrid.Tensor["batch", *sizes]``."""


class _IntegersType(type):
    """As `_TensorType`."""

    def __getitem__(cls, dims: object) -> IntegerSpec:
        return IntegerSpec("int64", _example_shape("Integers", dims))


class Integers(metaclass=_IntegersType):
    """Int64 data, such as tokens: ``pygrid.Integers["batch", *sizes](num_classes)``."""


def Label(num_classes: int) -> DataSpec:
    """One int64 class in ``[0, num_classes)`` per example."""
    _positive(num_classes, "the number of classes")
    return DataSpec("int64", (), f"label 0..{num_classes - 1}", num_classes)


@dataclass(frozen=True)
class Float:
    """A number as hyperparameter; devices and owners may choose it within the range, both ends included."""

    default: float
    min: float = 0.0
    max: float = 1e6

    def __post_init__(self) -> None:
        finite = all(math.isfinite(number) for number in (self.default, self.min, self.max))
        if not finite or not self.min <= self.default <= self.max:
            raise AuthoringError(
                f"a hyperparameter needs finite min <= default <= max; got {self.min}, {self.default}, {self.max}",
                code=codes.PLAN_PORT,
            )

    def hyper(self) -> Hyper:
        return Hyper(default=float(self.default), min=float(self.min), max=float(self.max))
