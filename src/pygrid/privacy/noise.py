"""Integer noise and secret coins from a cryptographic generator.

`SecretBits` expands a new 256-bit key by AES-256 in counter mode. `DiscreteGaussian` turns its words into samples of
the discrete Gaussian N_Z(0, sigma^2), whose probability at each integer n is proportional to exp(-n^2 / (2 sigma^2)).

The last bits of floating-point noise on floating-point data can reveal the data (Mironov, CCS 2012). Integers leave no
such trace. The discrete Gaussian costs the same as the continuous one (Canonne, Kamath, Steinke, NeurIPS 2020, theorem
4).

**A table for sigma up to 1024.** A uniform 126-bit number selects the magnitude |n| in a table of the distribution
function, which was computed with 256-bit integers and rounded to 126 bits. One more bit is the sign. The first 63 bits
nearly always decide; the other 63 are used only if the first tie with an entry. The table ends at 13.3 sigma, beyond
which the probability is less than 2^-126. A sample is within 2^-111 of the true distribution, in statistical distance:
13 620 entries, each off by at most 2^-126, and the tail.

**Larger sigma by convolution.** If A ~ N_Z(0, (4m)^2) and B ~ N_Z(0, t^2) are independent, the probability of n under
A + m B is proportional to exp(-n^2 / (2 sigma^2)) times a sum over j of exp(-(j - c n)^2 / (2 s^2)), with sigma^2 =
(4m)^2 + (m t)^2 and 1/s^2 = 1/16 + 1/t^2. By Poisson summation, that sum varies with n by at most a relative
4 exp(-2 pi^2 s^2), which is less than 2^-400 for t >= 64. So the result is the discrete Gaussian for every
purpose. Micciancio and Walter, CRYPTO 2017, use the same method.
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

from pygrid import codes
from pygrid.errors import InvalidInput

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

MAX_TABLE_SIGMA = 1024.0
"""The largest sigma that one table serves. A sample of a larger sigma is a sum of two samples."""
MAX_SIGMA = 2.0**40
"""With it, a sample stays below 2^44, so sums of many samples fit in 64 bits."""

_KEY_BYTES = 32
_CHUNK_WORDS = 1 << 15
"""256 KiB of key stream per step, which stay in the cache until they are used."""
_ZEROS = bytes(_CHUNK_WORDS * 8)
_WORD_BITS = 63
_FIXED_BITS = 256
_TAIL = 13.3
_GUIDE_BITS = 16


class SecretBits:
    """Random words that cannot be predicted or repeated, from 256 bits of the system's entropy.

    For one thread at a time. After a fork, the copy in the child raises an error: it would repeat the parent's words,
    and noise that is used twice can be subtracted.
    """

    def __init__(self) -> None:
        self._start(os.urandom(_KEY_BYTES))

    @classmethod
    def _from_key(cls, key: bytes) -> Self:
        """A generator with a known key, for tests that repeat its words."""
        bits = cls.__new__(cls)
        bits._start(key)
        return bits

    def _start(self, key: bytes) -> None:
        self._pid = os.getpid()
        # A key is used for one stream only, so the counter can begin at zero.
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> UInt64:
        """``count`` uniform 64-bit words.

        Raises:
            RuntimeError: this process is a fork of the one that made the generator.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("a generator of secret bits was copied by a fork; make a new one in this process")
        words: UInt64 = np.empty(count, np.uint64)
        raw = memoryview(words.view(np.uint8).data)
        for start in range(0, len(raw), len(_ZEROS)):
            part = raw[start : start + len(_ZEROS)]
            self._stream.update_into(_ZEROS[: len(part)], part)
        return words

    def coins(self, count: int, probability: float) -> npt.NDArray[np.bool_]:
        """``count`` independent coins. Each is True with the probability, rounded down to a multiple of 2^-64.

        This is Poisson sampling: a record takes part in a round if its coin is True.

        Raises:
            InvalidInput: the probability is not from 0 to 1.
        """
        if not 0.0 <= probability <= 1.0:
            raise InvalidInput(f"the sampling rate is {probability}: use 0 to 1", code=codes.INVALID_SAMPLING_RATE)
        if probability == 1.0:
            return np.ones(count, np.bool_)
        return self.words(count) < np.uint64(int(Decimal(probability) * 2**64))

    def uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Independent numbers in [0, 1) that are multiples of 2^-24; float32."""
        words = self.words(math.prod(shape)) >> np.uint64(40)
        return (words.astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

    def round(self, values: npt.NDArray[np.floating[Any]]) -> Int64:
        """The values, each randomly rounded up or down to an integer, with the value as its expectation.

        Args:
            values: finite, of magnitude below 2^52.
        """
        wide = np.asarray(values, np.float64)
        floor = np.floor(wide)
        uniform = (self.words(wide.size) >> np.uint64(11)).astype(np.float64).reshape(wide.shape) * 2.0**-53
        return (floor + (uniform < wide - floor)).astype(np.int64)


class DiscreteGaussian:
    """The discrete Gaussian on the integers with a given sigma, and its own generator.

    Make a new one for each release, so that each release has a new key.

    Args:
        sigma: standard deviation in units of the grid, above 0 and at most `MAX_SIGMA`. The variance of the discrete
            Gaussian is at most sigma^2, and equals it to the last digit for sigma >= 2.
        bits: the source of randomness; the default is a new `SecretBits`.
    Raises:
        InvalidInput: ``invalid_sigma``.
    """

    def __init__(self, sigma: float, bits: SecretBits | None = None) -> None:
        if not 0.0 < sigma <= MAX_SIGMA:  # also rejects NaN
            raise InvalidInput(f"sigma is {sigma}: use a number above 0 and up to 2^40", code=codes.INVALID_SIGMA)
        self.sigma = float(sigma)
        self._bits = bits or SecretBits()

    def sample(self, count: int) -> Int64:
        """``count`` independent samples."""
        noise: Int64 = np.empty(count, np.int64)
        # In pieces that stay in the cache, like the key stream.
        for start in range(0, count, _CHUNK_WORDS):
            part = noise[start : start + _CHUNK_WORDS]
            part[...] = _sample(self.sigma, part.size, self._bits)
        return noise

    def add(self, values: Int64) -> Int64:
        """The values, each with a sample added, in a new array.

        Raises:
            InvalidInput: the values are not 64-bit integers. Noise on rounded numbers protects less than it claims.
        """
        if values.dtype != np.int64:
            raise InvalidInput(f"integer noise needs int64 values, these are {values.dtype}", code=codes.INVALID_DTYPE)
        return values + self.sample(values.size).reshape(values.shape)


def _sample(sigma: float, count: int, bits: SecretBits) -> Int64:
    if sigma <= MAX_TABLE_SIGMA:
        return _table(sigma).sample(count, bits)
    # The smallest factor for which one table serves the rest. The first part can again be too large for a table.
    factor = math.ceil(sigma / math.hypot(4.0, MAX_TABLE_SIGMA))
    rest = math.sqrt((sigma / factor) ** 2 - 16.0)
    return _sample(4.0 * factor, count, bits) + factor * _table(rest).sample(count, bits)


class _Table:
    """The distribution function of |X| for one sigma: ``limits[n]`` is P(|X| <= n) in units of 2^-126.

    It contains no secret, so one table can serve many generators.
    """

    def __init__(self, sigma: float) -> None:
        self.limits = _distribution(sigma)
        self._high = np.array([limit >> _WORD_BITS for limit in self.limits], np.uint64)
        # If the leading bits of a word determine the result, it is looked up; otherwise it is searched for.
        edges = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(_WORD_BITS - _GUIDE_BITS)
        last = edges + np.uint64((1 << (_WORD_BITS - _GUIDE_BITS)) - 1)
        self._guide = np.searchsorted(self._high, edges, side="left").astype(np.int64)
        self._doubtful = np.searchsorted(self._high, last, side="right") != self._guide

    def sample(self, count: int, bits: SecretBits) -> Int64:
        words = bits.words(count)
        magnitudes = self.search(words >> np.uint64(1), bits)
        signs = (words & np.uint64(1)).astype(np.int64)
        # Two's complement negates those with a sign bit. Zero stays zero: the table does not double its probability.
        return (magnitudes ^ -signs) + signs

    def search(self, words: UInt64, bits: SecretBits) -> Int64:
        """The magnitude of each 63-bit word: the number of limits at or below the word and the 63 bits after it."""
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
    """P(|X| <= n) for n = 0, 1, ..., in units of 2^-126. The last is left out: a number above all others selects it."""
    one = 1 << _FIXED_BITS
    with localcontext() as context:
        context.prec = 100
        exponent = -1 / (2 * Decimal(sigma) ** 2)
        ratio = int(exponent.exp() * one)
        square = int((2 * exponent).exp() * one)
    # exp(-(n+1)^2 / 2s^2) = exp(-n^2 / 2s^2) * ratio * square^n: two multiplications per entry.
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
