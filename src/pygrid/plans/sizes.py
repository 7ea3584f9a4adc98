"""Sizes that hold for every batch size: integers, or polynomials in the one symbol of a graph.

The shapes of a graph depend on the number of examples n >= 1 (or of diffs). The gate must bound them for every n that
a runner may use. Trying some values of n proves nothing: a graph could be small for those and huge for another n. So
shapes are computed exactly, as polynomials, and a size that is not a polynomial is refused. A polynomial in n - 1 whose
coefficients are all >= 0 is never negative and never falls when n grows. So its value at the largest n bounds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Poly:
    """``coefficients[k]`` belongs to the k-th power of n; at least two, the last is not zero. Build it with `poly`."""

    coefficients: tuple[int, ...]

    def __add__(self, other: Size) -> Size:
        a, b = self.coefficients, _coefficients(other)
        width = max(len(a), len(b))
        a, b = a + (0,) * (width - len(a)), b + (0,) * (width - len(b))
        return poly(*(x + y for x, y in zip(a, b, strict=True)))

    __radd__ = __add__

    def __mul__(self, other: Size) -> Size:
        a, b = self.coefficients, _coefficients(other)
        product = [0] * (len(a) + len(b) - 1)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                product[i + j] += x * y
        return poly(*product)

    __rmul__ = __mul__

    def __neg__(self) -> Size:
        return poly(*(-x for x in self.coefficients))

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: Size) -> Size:
        return (-self) + other

    def __str__(self) -> str:
        terms = [_term(c, k) for k, c in reversed(list(enumerate(self.coefficients))) if c]
        return " + ".join(terms)


Size: TypeAlias = int | Poly


def poly(*coefficients: int) -> Size:
    """The polynomial with these coefficients, constant first; an int if it is constant."""
    while len(coefficients) > 1 and coefficients[-1] == 0:
        coefficients = coefficients[:-1]
    return Poly(coefficients) if len(coefficients) > 1 else coefficients[0]


SYMBOL = Poly((0, 1))
"""n itself."""


def at(size: Size, n: int) -> int:
    """The value for n examples."""
    return sum(c * n**k for k, c in enumerate(_coefficients(size)))


def bound(size: Size, max_n: int) -> int:
    """A bound on the magnitude of the value for every n with 1 <= n <= max_n."""
    return sum(abs(c) * max_n**k for k, c in enumerate(_coefficients(size)))


def is_size(value: Size) -> bool:
    """Whether this is proven to be >= 0 for each n >= 1, and to never fall when n grows."""
    return all(c >= 0 for c in _from_one(value))


def is_positive(value: Size) -> bool:
    """Whether this is proven to be >= 1 for each n >= 1."""
    return is_size(value) and _from_one(value)[0] >= 1


def at_most(a: Size, b: Size) -> bool:
    """Whether a <= b is proven for every n >= 1."""
    return is_size(b - a)


def compare(a: Size, b: Size) -> int | None:
    """-1, 0 or 1 if a < b, a == b or a > b holds for every n >= 1; None if it depends on n or is not proven."""
    difference = _from_one(a - b)
    if not any(difference):
        return 0
    if difference[0] > 0 and min(difference) >= 0:
        return 1
    return -1 if difference[0] < 0 and max(difference) <= 0 else None


def divide(a: Size, b: Size) -> Size | None:
    """a / b if that is exact for every n, else None.

    Source: long division of polynomials; quotients must have integer coefficients.
    """
    divisor = _coefficients(b)
    if divisor == (0,):
        return None
    rest = list(_coefficients(a))
    quotient = [0] * max(1, len(rest) - len(divisor) + 1)
    for shift in range(len(rest) - len(divisor), -1, -1):
        factor, remainder = divmod(rest[shift + len(divisor) - 1], divisor[-1])
        if remainder:
            return None
        quotient[shift] = factor
        for k, c in enumerate(divisor):
            rest[shift + k] -= factor * c
    return None if any(rest) else poly(*quotient)


def _coefficients(size: Size) -> tuple[int, ...]:
    return size.coefficients if isinstance(size, Poly) else (size,)


def _from_one(size: Size) -> tuple[int, ...]:
    """The coefficients in n - 1 instead of n (a Taylor shift by repeated Horner steps)."""
    shifted = list(_coefficients(size))
    for first in range(len(shifted) - 1):
        for k in range(len(shifted) - 2, first - 1, -1):
            shifted[k] += shifted[k + 1]
    return tuple(shifted)


def _term(coefficient: int, power: int) -> str:
    symbol = "" if power == 0 else "n" if power == 1 else f"n^{power}"
    return f"{coefficient}{symbol}" if coefficient != 1 or not symbol else symbol
