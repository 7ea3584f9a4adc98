"""Integer noise and secret coins from a cryptographic generator.

`SecretBits` expands a fresh 256-bit key by AES-256 in counter mode. `DiscreteGaussian` turns its words into samples of the
discrete Gaussian N_Z(0, sigma^2), whose probability at each integer n is proportional to exp(-n^2 / (2 sigma^2)).

Floating-point noise on floating-point data can be told from the data by its last bits (Mironov, CCS 2012); integers leave no
such trace. The discrete Gaussian costs what the continuous one does (Canonne, Kamath, Steinke, NeurIPS 2020, theorem 4).

**A table for sigma up to 1024.** The magnitude |n| is found by a uniform 126-bit number among the values of its distribution
function, computed with 256-bit integers and rounded to 126 bits; one more bit is the sign. The first 63 bits decide nearly
always, the other 63 only when they tie with an entry. Cut off at 13.3 sigma, where less than 2^-126 is left, a sample is within
2^-111 of the true distribution (in statistical distance: 13 620 entries, each off by at most 2^-126, and the tail).

**Larger sigma by convolution.** If A ~ N_Z(0, (4m)^2) and B ~ N_Z(0, t^2) are independent, A + m B has at n the probability
proportional to exp(-n^2 / (2 sigma^2)) times a sum over j of exp(-(j - c n)^2 / (2 s^2)), with sigma^2 = (4m)^2 + (m t)^2 and
1/s^2 = 1/16 + 1/t^2. By Poisson summation that sum depends on n by a relative 4 exp(-2 pi^2 s^2) at the most: less than 2^-400
for t >= 64. So the result is the discrete Gaussian for every purpose (Micciancio, Walter, CRYPTO 2017, do it this way too).
"""

from __future__ import annotations

import bisect
import math
import os
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pygrid.errors import InvalidInput

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

MAX_TABLE_SIGMA = 1024.0
"""The largest sigma that is sampled from one table; a larger one is a sum of two."""
MAX_SIGMA = 2.0**40
"""A sample stays below 2^44 then, so that sums of many fit in 64 bits."""

_KEY_BYTES = 32
_CHUNK_WORDS = 1 << 15
"""256 KiB of key stream at a time: stays in the cache between making and using."""
_ZEROS = bytes(_CHUNK_WORDS * 8)
_WORD_BITS = 63
_FIXED_BITS = 256
_TAIL = 13.3
_GUIDE_BITS = 16


class SecretBits:
    """Random words that nobody can predict or repeat, from 256 bits of the system's entropy.

    Not for two threads at once. After a fork the copy in the child refuses to go on: it would repeat the parent's words, and
    noise that is used twice can be subtracted.
    """

    def __init__(self) -> None:
        self._start(os.urandom(_KEY_BYTES))

    @classmethod
    def _from_key(cls, key: bytes) -> Self:
        """The words of a known key, for tests that must be able to repeat them."""
        bits = cls.__new__(cls)
        bits._start(key)
        return bits

    def _start(self, key: bytes) -> None:
        self._pid = os.getpid()
        # A key is used for one stream only, so the counter may begin at zero.
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> UInt64:
        """``count`` uniform 64-bit words.

        Raises:
            RuntimeError: this process is a fork of the one that made the generator.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("a generator of secret bits was carried over a fork; make a new one in this process")
        words: UInt64 = np.empty(count, np.uint64)
        raw = memoryview(words.view(np.uint8).data)
        for start in range(0, len(raw), len(_ZEROS)):
            part = raw[start : start + len(_ZEROS)]
            self._stream.update_into(_ZEROS[: len(part)], part)
        return words

    def coins(self, count: int, probability: float) -> npt.NDArray[np.bool_]:
        """``count`` independent coins, each True with the probability, rounded down to a multiple of 2^-64.

        Poisson sampling is this: a record takes part in a round if its coin says so.

        Raises:
            InvalidInput: the probability is not within 0 and 1.
        """
        if not 0.0 <= probability <= 1.0:
            raise InvalidInput(f"a sampling rate of {probability} is no probability: use 0 to 1", code="invalid_sampling_rate")
        if probability == 1.0:
            return np.ones(count, np.bool_)
        return self.words(count) < np.uint64(int(Decimal(probability) * 2**64))

    def uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Independent numbers of [0, 1), multiples of 2^-24; float32."""
        words = self.words(math.prod(shape)) >> np.uint64(40)
        return (words.astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

    def round(self, values: npt.NDArray[np.floating[Any]]) -> Int64:
        """Each value rounded up or down to an integer at random, so that its expectation stays; |values| < 2^52, finite."""
        wide = np.asarray(values, np.float64)
        floor = np.floor(wide)
        uniform = (self.words(wide.size) >> np.uint64(11)).astype(np.float64).reshape(wide.shape) * 2.0**-53
        return (floor + (uniform < wide - floor)).astype(np.int64)


class DiscreteGaussian:
    """The discrete Gaussian on the integers with a given sigma, and a generator of its own.

    Make one for each release: its key is fresh then.

    Args:
        sigma: standard deviation in units of the grid, above 0 and at most `MAX_SIGMA`. The variance of the discrete Gaussian
            is never above sigma^2, and equals it to the last digit for sigma >= 2.
        bits: where the randomness comes from; default: a fresh `SecretBits`.
    Raises:
        InvalidInput: ``invalid_sigma``.
    """

    def __init__(self, sigma: float, bits: SecretBits | None = None) -> None:
        if not 0.0 < sigma <= MAX_SIGMA:  # also refuses NaN
            raise InvalidInput(
                f"noise of sigma {sigma} cannot be made: use a number above 0 and up to 2^40", code="invalid_sigma"
            )
        self.sigma = float(sigma)
        self._bits = bits or SecretBits()

    def sample(self, count: int) -> Int64:
        """``count`` independent samples."""
        noise: Int64 = np.empty(count, np.int64)
        # In pieces that stay in the cache, as the key stream is.
        for start in range(0, count, _CHUNK_WORDS):
            part = noise[start : start + _CHUNK_WORDS]
            part[...] = _sample(self.sigma, part.size, self._bits)
        return noise

    def add(self, values: Int64) -> Int64:
        """The values, each with a sample added; the array given is left as it is.

        Raises:
            InvalidInput: the values are not 64-bit integers: noise on rounded numbers protects less than it says.
        """
        if values.dtype != np.int64:
            raise InvalidInput(f"integer noise is added to int64 values, these are {values.dtype}", code="invalid_dtype")
        return values + self.sample(values.size).reshape(values.shape)


def _sample(sigma: float, count: int, bits: SecretBits) -> Int64:
    if sigma <= MAX_TABLE_SIGMA:
        return _table(sigma).sample(count, bits)
    # The smallest factor whose rest comes from one table; the first part may be above a table again.
    factor = math.ceil(sigma / math.hypot(4.0, MAX_TABLE_SIGMA))
    rest = math.sqrt((sigma / factor) ** 2 - 16.0)
    return _sample(4.0 * factor, count, bits) + factor * _table(rest).sample(count, bits)


class _Table:
    """The distribution function of |X| for one sigma: ``limits[n]`` is P(|X| <= n) in units of 2^-126.

    Holds no secret, so one may serve many generators.
    """

    def __init__(self, sigma: float) -> None:
        self.limits = _distribution(sigma)
        self._high = np.array([limit >> _WORD_BITS for limit in self.limits], np.uint64)
        # Where the leading bits of a word leave no doubt, the answer is looked up; elsewhere it is searched for.
        edges = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(_WORD_BITS - _GUIDE_BITS)
        last = edges + np.uint64((1 << (_WORD_BITS - _GUIDE_BITS)) - 1)
        self._guide = np.searchsorted(self._high, edges, side="left").astype(np.int64)
        self._doubtful = np.searchsorted(self._high, last, side="right") != self._guide

    def sample(self, count: int, bits: SecretBits) -> Int64:
        words = bits.words(count)
        magnitudes = self.search(words >> np.uint64(1), bits)
        signs = (words & np.uint64(1)).astype(np.int64)
        # The two's complement of those whose sign bit is set; zero stays zero, whose probability the table does not double.
        return (magnitudes ^ -signs) + signs

    def search(self, words: UInt64, bits: SecretBits) -> Int64:
        """The magnitude that each 63-bit word stands for: the number of limits at or below the word and 63 bits to come."""
        leading = (words >> np.uint64(_WORD_BITS - _GUIDE_BITS)).astype(np.intp)
        found: Int64 = self._guide[leading]
        doubtful = np.flatnonzero(self._doubtful[leading])
        if doubtful.size:
            asked = words[doubtful]
            places = np.searchsorted(self._high, asked, side="left")
            found[doubtful] = places
            for tied in np.flatnonzero(self._high[np.minimum(places, len(self._high) - 1)] == asked):
                low = int(bits.words(1)[0]) >> 1
                found[doubtful[tied]] = bisect.bisect_right(self.limits, (int(asked[tied]) << _WORD_BITS) | low)
        return found


@lru_cache(maxsize=16)
def _table(sigma: float) -> _Table:
    return _Table(sigma)


def _distribution(sigma: float) -> list[int]:
    """P(|X| <= n) for n = 0, 1, ... in units of 2^-126, the last one missing: whatever is above the others is the last."""
    one = 1 << _FIXED_BITS
    with localcontext() as context:
        context.prec = 100
        exponent = -1 / (2 * Decimal(sigma) ** 2)
        ratio = int(exponent.exp() * one)
        square = int((2 * exponent).exp() * one)
    # exp(-(n+1)^2 / 2s^2) = exp(-n^2 / 2s^2) * ratio * square^n: two multiplications for each entry.
    weights, weight = [one], one
    for _ in range(max(2, math.ceil(_TAIL * sigma))):
        weight = weight * ratio >> _FIXED_BITS
        ratio = ratio * square >> _FIXED_BITS
        weights.append(2 * weight)
    total, below, limits = sum(weights), 0, []
    for weight in weights[:-1]:
        below += weight
        limits.append((below << (2 * _WORD_BITS)) // total)
    return limits
