"""Accuracy under attack, and server CPU per report, of the default rule of aggregation beside the mean of pygrid 0.1.

Devices train the digits of `examples/data` in numpy; a share of them is hostile. The rules are those of the server:
`weigh` decides how much each report counts, and `RunningSum` adds the diffs up.

    python benchmarks/robust_rules.py                       all attacks, 3 seeds
    python benchmarks/robust_rules.py --seeds 1 --only cpu
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits_data
from pygrid.aggregation.mean import BLOCK
from pygrid.aggregation.precisions import Expected
from pygrid.aggregation.rules import Aggregation, History, Vote, weigh
from pygrid.aggregation.running import RunningSum
from pygrid.core.reports import ReportCheck
from pygrid.tensors import encode, read_layout
from pygrid.tensors.safetensors import Layout

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SIZES = (64, 100, 10)
EPOCHS, BATCH, RATE, MOMENTUM = 5, 16, 0.2, 0.5
MAX_WEIGHT = 10_000

OLD = Aggregation(name="mean", bound=4.0, weight_cap=None)
"""The default of pygrid 0.1 without its faults in the median, which can only flatter it."""
DEFAULT = Aggregation()


@dataclass
class Crowd:
    """What colluding devices know: everything."""

    honest: list[Float32]
    centre: Float32
    rng: np.random.Generator

    @property
    def mean(self) -> Float64:
        mean: Float64 = np.mean(self.honest, axis=0, dtype=np.float64)
        return mean

    @property
    def reach(self) -> float:
        """Median distance of the honest diffs from the centre."""
        return float(np.median([np.linalg.norm(diff - self.centre) for diff in self.honest]))


Attack = Callable[[Float32, Crowd], npt.NDArray[np.floating]]


def _below(_own: Float32, crowd: Crowd) -> Float64:
    """As far against the honest direction as counts in full."""
    direction = crowd.mean / (np.linalg.norm(crowd.mean) or 1.0)
    return crowd.centre - 0.999 * crowd.reach * direction


ATTACKS: dict[str, Attack] = {
    "none": lambda own, _crowd: own,
    "sign flip": lambda own, _crowd: -own,
    "-50x": lambda own, _crowd: -50.0 * own,
    "zeros": lambda own, _crowd: np.zeros_like(own),
    "huge": lambda own, _crowd: np.full_like(own, 1e30),
    "just below the bound": _below,
    "ALIE": lambda _own, crowd: crowd.mean + 1.5 * np.std(crowd.honest, axis=0),
    "IPM 0.5": lambda _own, crowd: -0.5 * crowd.mean,
    "noise 10x": lambda own, crowd: crowd.rng.normal(size=own.size) * 10.0 * np.linalg.norm(own) / own.size**0.5,
}
"""What a hostile device sends in place of its own diff.

Sources: Baruch et al., NeurIPS 2019 (ALIE); Xie et al., UAI 2019 (IPM).
"""

ABSENT = "absent"
"""Name of the comparison: the hostile devices take no part."""


# -- training ----------------------------------------------------------------------------------------------------------


def initial(rng: np.random.Generator) -> Float32:
    """The values of a fresh network."""
    parts = []
    for fan_in, fan_out in itertools.pairwise(SIZES):
        parts += [rng.normal(0, (2 / fan_in) ** 0.5, fan_in * fan_out), np.zeros(fan_out)]
    return np.concatenate(parts).astype(np.float32)


def _layers(flat: npt.NDArray[np.floating]) -> Iterator[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]]:
    at = 0
    for fan_in, fan_out in itertools.pairwise(SIZES):
        yield (
            flat[at : at + fan_in * fan_out].reshape(fan_in, fan_out),
            flat[at + fan_in * fan_out : (at := at + (fan_in + 1) * fan_out)],
        )


def accuracy(flat: Float32, digits: digits_data.Digits) -> float:
    """Share of the digits that a network gets right."""
    (w1, b1), (w2, b2) = _layers(flat)
    with np.errstate(all="ignore"):
        return float((np.argmax(np.maximum(digits.x @ w1 + b1, 0) @ w2 + b2, axis=1) == digits.y).mean())


def train(start: Float32, digits: digits_data.Digits, rng: np.random.Generator) -> Float32:
    """The diff (start minus trained) of a device after `EPOCHS` over its digits."""
    flat = start.astype(np.float64)
    speed, gradient = np.zeros_like(flat), np.zeros_like(flat)
    (w1, b1), (w2, b2) = _layers(flat)
    (g1, h1), (g2, h2) = _layers(gradient)
    for _ in range(EPOCHS):
        order = rng.permutation(len(digits))
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            x, y = digits.x[rows], digits.y[rows]
            hidden = np.maximum(x @ w1 + b1, 0)
            logits = hidden @ w2 + b2
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            shares[np.arange(len(y)), y] -= 1
            shares /= len(y)
            g2[:], h2[:] = hidden.T @ shares, shares.sum(axis=0)
            back = (shares @ w2.T) * (hidden > 0)
            g1[:], h1[:] = x.T @ back, back.sum(axis=0)
            speed *= MOMENTUM
            speed += gradient
            flat -= RATE * speed
    return (start - flat).astype(np.float32)


# -- cycles ------------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """The part of a Domain that turns the diffs of a cycle into the next model."""

    rule: Aggregation
    model: Float32
    centre: Float32 | None = None
    expected: Expected = field(default_factory=Expected)
    accepted: list[list[tuple[float, float]]] = field(default_factory=list)

    @staticmethod
    def _parts(diffs: Sequence[Float32], number: int) -> list[tuple[int, Float32]]:
        return [(0, diffs[number])]

    def complete(self, diffs: Sequence[Float32], claims: Sequence[int]) -> None:
        """One cycle of these diffs."""
        votes = {number: self._vote(number, diff, claims[number]) for number, diff in enumerate(diffs)}
        total = RunningSum(self.model.size, self.expected)
        for number, vote in votes.items():
            total.fold(vote, partial(self._parts, diffs, number))
        earlier = [pair for cycle in self.accepted[-5:] for pair in cycle]
        history = History([norm for norm, _ in earlier], [weight for _, weight in earlier])
        weighed = weigh(self.rule, list(votes.values()), history, lambda: float(np.linalg.norm(self.model)))
        mean = total.result(votes, weighed, partial(self._parts, diffs))(0, self.model.size, self.centre)
        self.accepted.append([(vote.norm * weighed.scales[n], weighed.weights[n]) for n, vote in votes.items()])
        sizes = [votes[number].norm * weighed.scales[number] * weight for number, weight in weighed.weights.items()]
        self.expected = Expected(weighed.limit, max(sizes), len(sizes))
        most = float(np.finfo(np.float32).max)
        if self.rule.is_centred:
            self.centre = np.clip(mean, -most, most).astype(np.float32)
        self.model = np.clip(self.model - mean, -most, most).astype(np.float32)

    def _vote(self, number: int, diff: Float32, claimed: int) -> Vote:
        wide = diff.astype(np.float64)
        distance = None if self.centre is None else float(np.linalg.norm(wide - self.centre))
        weight = 1.0 if self.rule.has_equal_votes else float(min(claimed, MAX_WEIGHT))
        return Vote(number, float(np.linalg.norm(wide)), distance, weight)


def simulate(
    rule: Aggregation,
    attack: str,
    *,
    num_devices: int = 20,
    num_hostile: int = 4,
    num_cycles: int = 15,
    alpha: float = 1.0,
    claimed: int | None = None,
    quiet_first: bool = False,
    seed: int = 0,
) -> float:
    """Accuracy on the held-out digits after some cycles.

    Args:
        attack: name in `ATTACKS`, or `ABSENT`.
        quiet_first: in the first cycle honest devices send zeros.
        claimed: examples that hostile devices claim to have; None: the true number.
    """
    training, held_out = digits_data.hold_out(digits_data.load(), seed=seed)
    shards = digits_data.shards(training, num_devices, alpha=alpha, seed=seed)
    rng = np.random.default_rng(seed)
    server = Server(rule, initial(rng))
    for cycle in range(num_cycles):
        diffs = [train(server.model, shard, rng) for shard in shards]
        claims = [len(shard) for shard in shards]
        if attack == ABSENT:
            server.complete(diffs[num_hostile:], claims[num_hostile:])
            continue
        centre = np.zeros_like(server.model) if server.centre is None else server.centre
        crowd = Crowd(diffs[num_hostile:], centre, rng)
        if quiet_first and cycle == 0:
            diffs[num_hostile:] = [np.zeros_like(server.model)] * (num_devices - num_hostile)
        for number in range(num_hostile):
            with np.errstate(over="ignore"):
                diffs[number] = np.asarray(ATTACKS[attack](diffs[number], crowd), np.float32)
            claims[number] = claimed or claims[number]
        server.complete(diffs, claims)
    return accuracy(server.model, held_out)


# -- cost --------------------------------------------------------------------------------------------------------------


def cpu_ratio(num_values: int = 650_000, num_reports: int = 40, repeats: int = 5) -> tuple[float, float, float]:
    """CPU per report for check and fold, in ms: of the mean of pygrid 0.1, of centred clipping; and the median of the
    ratios.

    The reports are those of a second cycle: half of them are beyond the limit that the first one left.
    """
    rng = np.random.default_rng(0)
    centre = rng.normal(size=num_values).astype(np.float32)
    diffs = [
        encode({"w": (centre + rng.normal(size=num_values) * rng.uniform(0.5, 2)).astype(np.float32)}) for _ in range(8)
    ]
    pairs = []
    for _ in range(repeats):
        pairs.append(
            (_cpu(_Mean(num_values), diffs, num_reports), _cpu(_Centred(num_values, centre), diffs, num_reports))
        )
    mean, centred = (min(pair[side] for pair in pairs) * 1e3 for side in (0, 1))
    return mean, centred, float(np.median([second / first for first, second in pairs]))


class _Mean:
    """A report as pygrid 0.1 took it: norm, then one sum weighted by examples."""

    def __init__(self, num_values: int) -> None:
        self._sum = np.zeros(num_values)

    def take(self, data: bytes) -> None:
        layout = read_layout(data)
        check = ReportCheck(layout, len(data))
        check.add(data)
        check.finish()
        for start, block in _blocks(data, layout):
            self._sum[start : start + len(block)] += np.multiply(block, 30.0, dtype=np.float64)


class _Centred:
    """A report under centred clipping: norm and distance, then one of two sums."""

    def __init__(self, num_values: int, centre: Float32) -> None:
        limit = 1.25 * num_values**0.5
        self._sum = RunningSum(num_values, Expected(limit, limit, 40))
        self._centre = centre
        self._number = 0

    def take(self, data: bytes) -> None:
        layout = read_layout(data)
        check = ReportCheck(layout, len(data), self._centre)
        check.add(data)
        content = check.finish()
        self._number += 1
        vote = Vote(self._number, content.norm, content.distance, 1.0)
        self._sum.fold(vote, lambda: _blocks(data, layout))


def _blocks(data: bytes, layout: Layout) -> Iterator[tuple[int, Float32]]:
    values = np.frombuffer(data, "<f4", offset=layout.header_bytes)
    for start in range(0, values.size, BLOCK):
        yield start, values[start : start + BLOCK]


def _cpu(side: _Mean | _Centred, diffs: list[bytes], num_reports: int) -> float:
    for data in diffs:
        side.take(data)
    began = time.process_time()
    for number in range(num_reports):
        side.take(diffs[number % len(diffs)])
    return (time.process_time() - began) / num_reports


# -- all of it ---------------------------------------------------------------------------------------------------------


def table(seeds: int) -> None:
    """Print the accuracy of both rules under each attack, over so many seeds."""
    rows: list[tuple[str, str, int | None, int]] = [
        ("no hostile device", "none", None, 0),
        ("without the 20%", ABSENT, None, 4),
    ]
    rows += [(name, name, None, 4) for name in ATTACKS if name != "none"]
    rows += [("sign flip, 10,000 examples claimed by one", "sign flip", 10_000, 1)]
    print(f"{'accuracy on digits, 20 devices, 15 cycles':44} {'default':>8} {'mean of 0.1':>12}")
    for title, attack, claimed, num_hostile in rows:
        default, old = (
            np.mean(
                [simulate(rule, attack, num_hostile=num_hostile, claimed=claimed, seed=seed) for seed in range(seeds)]
            )
            for rule in (DEFAULT, OLD)
        )
        print(f"{title:44} {default:8.3f} {old:12.3f}", flush=True)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="Seeds of the accuracies.")
    parser.add_argument("--only", choices=("accuracy", "cpu"), help="One part.")
    given = parser.parse_args()
    if given.only != "cpu":
        table(given.seeds)
    if given.only != "accuracy":
        mean, centred, ratio = cpu_ratio()
        print(f"CPU per report of 2.6 MB: mean {mean:.2f} ms, centred clipping {centred:.2f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
