"""The sampler against the distribution it claims.

Should happen: frequencies, moments and tails of the discrete Gaussian at every size of sigma; the table equals an
independent calculation; ties are settled by the second word; coins and rounding have the rates they claim.
Should not happen: two generators that agree, noise from a generator carried over a fork, noise on floats.
"""

from __future__ import annotations

import itertools
import math
import os

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pygrid.errors import InvalidInput
from pygrid.privacy.noise import MAX_SIGMA, DiscreteGaussian, SecretBits, _distribution, _Table

COUNT = 400_000


def known_bits(number: int) -> SecretBits:
    """Words that are the same in every run, so that a test of chance always ends the same way."""
    return SecretBits._from_key(number.to_bytes(32, "big"))


def samples(sigma: float, count: int = COUNT, seed: int = 1) -> np.ndarray:
    return DiscreteGaussian(sigma, known_bits(seed)).sample(count)


def exact_probability(low: float, high: float, sigma: float) -> float:
    """P(low < X <= high) by plain summation."""
    reach = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    return float(weights[(reach > low) & (reach <= high)].sum() / weights.sum())


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0, 30.0, 1000.0, 1024.004, 2500.0])
def test_frequencies_are_those_of_the_discrete_gaussian(sigma: float):
    """Chi-square over bins of equal probability, all six seeds: the smallest of six p-values is above 0.001."""
    edges = np.unique(np.rint(stats.norm.ppf(np.linspace(0, 1, 33)[1:-1]) * sigma))
    bounds = [-math.inf, *edges, math.inf]
    expected = np.array([exact_probability(a, b, sigma) for a, b in itertools.pairwise(bounds)])
    values = []
    for seed in range(6):
        drawn = samples(sigma, 100_000, seed)
        observed = np.bincount(np.searchsorted(edges, drawn, side="left"), minlength=len(expected))
        kept = expected * len(drawn) > 5
        folded = [*observed[kept], observed[~kept].sum()] if (~kept).any() else observed
        wanted = [*expected[kept], expected[~kept].sum()] if (~kept).any() else expected
        values.append(stats.chisquare(folded, np.array(wanted) * len(drawn)).pvalue)
    assert min(values) > 0.001, values


@pytest.mark.parametrize("sigma", [3.0, 1000.0, 5_000.0, 131_072.0, 1e6, 1e9, 1e12])
def test_moments_and_tails_at_every_size(sigma: float):
    drawn = samples(sigma).astype(np.float64) / sigma
    error = 5 / math.sqrt(COUNT)
    assert abs(drawn.mean()) < error
    assert abs(drawn.var() - 1) < error * math.sqrt(2)
    assert abs((drawn**3).mean()) < error * math.sqrt(15)
    assert abs((drawn**4).mean() - 3) < error * math.sqrt(96)
    assert abs((drawn > 0).mean() - (drawn < 0).mean()) < error
    assert 4.0 < np.abs(drawn).max() < 6.5
    # Half a step further out on a coarse grid, where the bins of the whole numbers end.
    beyond = (np.abs(drawn) > 3).mean()
    assert beyond == pytest.approx(2 * stats.norm.sf(3 + 0.5 / sigma), rel=0.15)


@pytest.mark.parametrize("sigma", [5_000.0, 1e6])
def test_a_sum_of_two_tables_has_no_pattern(sigma: float):
    """The low digits of a large sample are uniform; with one coarse table they would cluster."""
    for modulus in (7, 32, 37):
        observed = np.bincount(samples(sigma) % modulus, minlength=modulus)
        assert stats.chisquare(observed).pvalue > 0.001


@pytest.mark.parametrize("sigma", [0.3, 2.0, 41.7])
def test_the_table_is_the_distribution_function_to_126_bits(sigma: float):
    with mpmath.workprec(400):
        reach = math.ceil(20 * sigma) + 20
        weights = [mpmath.exp(-(mpmath.mpf(n) ** 2) / (2 * mpmath.mpf(sigma) ** 2)) for n in range(reach)]
        total = weights[0] + 2 * mpmath.fsum(weights[1:])
        below = weights[0]
        for n, limit in enumerate(_distribution(sigma)):
            # What lies beyond the end of the table is at most 2^-122 of the whole.
            assert abs(mpmath.mpf(limit) / 2**126 - below / total) < mpmath.mpf(2) ** -121, n
            below += 2 * weights[n + 1]


def test_a_tie_on_the_first_word_is_settled_by_the_second():
    table = _Table(30.0)
    place = 17
    high, low = divmod(table.limits[place], 1 << 63)

    class Words(SecretBits):
        def __init__(self, word: int) -> None:
            self.word = word

        def words(self, count: int) -> np.ndarray:
            return np.full(count, self.word, np.uint64)

    asked = np.array([high], np.uint64)
    assert table.search(asked, Words((low - 1) << 1)) == [place]
    assert table.search(asked, Words(low << 1)) == [place + 1]
    assert table.search(asked - np.uint64(1), Words(0)) == [place]
    assert table.search(asked + np.uint64(1), Words(0)) == [place + 1]


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=50), st.sampled_from([0.2, 1.0, 4.0, 77.7]))
def test_looking_up_equals_counting(words: list[int], sigma: float):
    table = _Table(sigma)
    found = table.search(np.array(words, np.uint64), known_bits(0))
    for word, magnitude in zip(words, found.tolist(), strict=True):
        # The two differ only where the word ties with a limit.
        assert sum(limit >> 63 < word for limit in table.limits) <= magnitude
        assert magnitude <= sum(limit >> 63 <= word for limit in table.limits)


def test_the_key_stream_is_aes_256_in_counter_mode():
    """NIST SP 800-38A gives no vector with a zero counter block; FIPS 197's, whose plaintext is the first counter, has
    none either, so the words are compared with the block cipher itself."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    stream = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(20_000))
    bits = SecretBits._from_key(key)
    words = np.concatenate([bits.words(count) for count in (1, 3, 33_000, 6_996)])
    assert words.tobytes() == stream


def test_every_generator_has_a_key_of_its_own():
    drawn = [SecretBits().words(4).tobytes() for _ in range(20)]
    assert len(set(drawn)) == 20
    assert not np.array_equal(DiscreteGaussian(1000.0).sample(16), DiscreteGaussian(1000.0).sample(16))


def test_a_generator_is_of_no_use_after_a_fork():
    noise = DiscreteGaussian(3.0)
    noise.sample(1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            noise.sample(1)
            os.write(writer, b"noise")
        except RuntimeError:
            os.write(writer, b"refused")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"refused"
    os.waitpid(child, 0)
    noise.sample(1)


@pytest.mark.parametrize("probability", [0.0, 1e-3, 0.25, 0.5, 1.0])
def test_coins_have_their_rate(probability: float):
    share = known_bits(2).coins(COUNT, probability).mean()
    assert share == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / COUNT))


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan, math.inf])
def test_a_rate_that_is_no_probability_is_refused(probability: float):
    with pytest.raises(InvalidInput) as refused:
        SecretBits().coins(1, probability)
    assert refused.value.code == "invalid_sampling_rate"


def test_rounding_keeps_the_expectation_and_leaves_whole_numbers_alone():
    values = np.array([[-2.75, -1.0], [0.0, 3.25]])
    drawn = np.stack([known_bits(seed).round(values) for seed in range(4000)])
    assert np.abs(drawn - values).max() < 1
    np.testing.assert_allclose(drawn.mean(axis=0), values, atol=5 * 0.5 / math.sqrt(4000))


def test_noise_is_added_to_integers_only_and_leaves_them_as_they_were():
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    noisy = DiscreteGaussian(1e6).add(values)
    assert noisy.shape == (2, 3)
    assert noisy.dtype == np.int64
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InvalidInput) as refused:
        DiscreteGaussian(1.0).add(values.astype(np.float64))  # type: ignore[arg-type]
    assert refused.value.code == "invalid_dtype"


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, MAX_SIGMA * 2])
def test_a_sigma_that_makes_no_noise_is_refused(sigma: float):
    with pytest.raises(InvalidInput) as refused:
        DiscreteGaussian(sigma)
    assert refused.value.code == "invalid_sigma"
