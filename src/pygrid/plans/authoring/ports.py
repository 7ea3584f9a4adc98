"""Types for the inputs of a plan: columns of data and hyperparameters.

pygrid.Tensor["batch", 1, 28, 28]                          float32 examples of shape [1, 28, 28]
pygrid.Tensor["batch", 64].meaning("8x8 image in 0..1")    ... with text to compare with a dataset
pygrid.Tensor["batch", 64].optional()                      ... in which values can be missing: they arrive as NaN
pygrid.Integers["batch", 20](1000)                         int64 tokens in [0, 1000)
pygrid.Integers["batch", 8, 8](4, ignore=255)              a mask: 0..3, or 255 for what has no label
pygrid.Text(64)                                            texts as 64 tokens: their bytes
pygrid.Text(64, "vocabulary.txt")                          ... or the numbers of words in a file
pygrid.Label(10)                                           one int64 class in [0, 10) per example
pygrid.Label(10, ignore=-100)                              ... or -100 for an example without a label
pygrid.Float(0.1, min=1e-5, max=1.0)                       a hyperparameter, its default and its range
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from pygrid import codes
from pygrid.plans.authoring.diagnostics import declaration_error
from pygrid.plans.manifest import BATCH, DataPort, DType, Hyper
from pygrid.plans.tokenizers import tokenizer_of


@dataclass(frozen=True)
class DataSpec:
    """A column of data: dtype and shape of one example."""

    dtype: DType
    shape: tuple[int, ...]
    words: str = ""
    num_classes: int | None = None
    is_optional: bool = False
    ignore: int | None = None
    tokenizer: str | None = None

    def meaning(self, words: str) -> DataSpec:
        """The same column with a description, for example ``image 1x28x28 in 0..1``."""
        return replace(self, words=words)

    def optional(self) -> DataSpec:
        """The same column with values that can be missing: they arrive as NaN, and the plan must handle them.

        Raises:
            AuthoringError: ``plan_port``: the column holds integers, which have no NaN.
        """
        if self.dtype != "float32":
            raise declaration_error(
                f"a port of {self.dtype} cannot be optional: only float32 has NaN", code=codes.PLAN_PORT
            )
        return replace(self, is_optional=True)

    def port(self) -> DataPort:
        optional = True if self.is_optional else msgspec.UNSET
        ignore = msgspec.UNSET if self.ignore is None else self.ignore
        tokenizer = msgspec.UNSET if self.tokenizer is None else self.tokenizer
        return DataPort(self.dtype, self.shape, self.words, self.num_classes, optional, ignore, tokenizer)


@dataclass(frozen=True)
class IntegerSpec(DataSpec):
    """A column of integers; call it with the number of different values to bound them."""

    def __call__(self, num_classes: int, *, ignore: int | None = None) -> DataSpec:
        """Integers in ``[0, num_classes)``; ``ignore`` is a further value, for what has no label.

        Raises:
            AuthoringError: ``plan_port``: ``ignore`` is one of the classes, or not a whole number.
        """
        _positive(num_classes, "num_classes")
        words = self.words or f"integers {_values(num_classes, ignore)}"
        return DataSpec(self.dtype, self.shape, words, num_classes, ignore=ignore)


def _values(num_classes: int, ignore: int | None) -> str:
    """The values of a column of classes in words."""
    words = f"0..{num_classes - 1}"
    if ignore is None:
        return words
    if not isinstance(ignore, int) or isinstance(ignore, bool) or not -(2**63) <= ignore < 2**63:
        raise declaration_error(f"ignore must be a whole number, got {ignore!r}", code=codes.PLAN_PORT)
    if 0 <= ignore < num_classes:
        raise declaration_error(
            f"ignore={ignore} is one of the classes {words}; leave it out here, and pass ignore_index={ignore} to the "
            "loss only",
            code=codes.PLAN_PORT,
        )
    return f"{words} or {ignore}"


def _positive(number: object, what: str) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise declaration_error(f"{what} must be a whole number of at least 1, got {number!r}", code=codes.PLAN_PORT)


def _example_shape(kind: str, dims: object) -> tuple[int, ...]:
    sizes = dims if isinstance(dims, tuple) else (dims,)
    if not sizes or sizes[0] != BATCH:
        raise declaration_error(
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


def Label(num_classes: int, *, ignore: int | None = None) -> DataSpec:
    """One int64 class in ``[0, num_classes)`` per example.

    Args:
        ignore: a further value, for an example without a label; the ``ignore_index`` of the loss.
    Raises:
        AuthoringError: ``plan_port``: a number is out of range, or ``ignore`` is one of the classes.
    """
    _positive(num_classes, "the number of classes")
    return DataSpec("int64", (), f"label {_values(num_classes, ignore)}", num_classes, ignore=ignore)


def Text(length: int, vocabulary: str | os.PathLike[str] | Sequence[str] | None = None) -> DataSpec:
    """A text as int64 tokens; `pygrid.tokenize` makes them, and a Domain makes them of a column of texts.

    Args:
        length: tokens of each text; a longer text is cut, a shorter one is padded with 0.
        vocabulary: words, or a file with one word in each line; None: the tokens are the bytes of the text.
    Raises:
        AuthoringError: ``plan_port``: the length or the vocabulary is not valid.
    """
    _positive(length, "the number of tokens")
    try:
        tokenizer = tokenizer_of(vocabulary)
    except ValueError as error:
        raise declaration_error(str(error), code=codes.PLAN_PORT) from error
    words = f"{length} tokens of a text, {tokenizer.name.partition(':')[0]}"
    return DataSpec("int64", (length,), words, tokenizer.num_tokens, tokenizer=tokenizer.name)


@dataclass(frozen=True)
class Float:
    """A number as hyperparameter; devices and owners may choose it within the range, both ends included."""

    default: float
    min: float = 0.0
    max: float = 1e6

    def __post_init__(self) -> None:
        finite = all(math.isfinite(number) for number in (self.default, self.min, self.max))
        if not finite or not self.min <= self.default <= self.max:
            raise declaration_error(
                f"a hyperparameter needs finite min <= default <= max; got {self.min}, {self.default}, {self.max}",
                code=codes.PLAN_PORT,
            )

    def hyper(self) -> Hyper:
        return Hyper(default=float(self.default), min=float(self.min), max=float(self.max))
