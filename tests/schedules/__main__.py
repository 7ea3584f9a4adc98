"""``scripts/schedules``: runs schedules, and prints a failure with its seed, its invariant and its shortest trace."""

from __future__ import annotations

import argparse
import sys

from schedules.mutants import Mutant
from schedules.running import model_of, play_seed, play_seeds, shorten


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status, 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(prog="scripts/schedules", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="First seed; the default is 0.")
    parser.add_argument("--count", type=int, default=1, metavar="M", help="Number of seeds; the default is 1.")
    parser.add_argument("--trace", action="store_true", help="Print the whole trace of the first seed.")
    parser.add_argument("--mutant", type=Mutant, metavar="NAME", help=", ".join(one.value for one in Mutant))
    options = parser.parse_args(arguments)
    if options.trace:
        return _replay(options.seed, options.mutant)
    done = play_seeds(range(options.seed, options.seed + options.count), options.mutant, max_failures=3)
    for seed, _ in done.failures:
        shortest = shorten(seed, options.mutant)
        print(f"seed {seed}, {model_of(seed).__name__}: {shortest.broken}\nThe shortest trace:")
        print("\n".join(shortest.trace))
    per_s = done.num_schedules / max(done.cpu_s, 1e-9)
    print(f"{done.num_schedules:,} schedules, {len(done.failures)} broken; {per_s:,.0f} a second of processor time")
    return 1 if done.failures else 0


def _replay(seed: int, mutant: Mutant | None) -> int:
    outcome = play_seed(seed, mutant, is_traced=True)
    print("\n".join(outcome.trace))
    print(f"seed {seed}, {model_of(seed).__name__}: {outcome.broken or 'all invariants hold'}")
    return 0 if outcome.broken is None else 1


if __name__ == "__main__":
    sys.exit(main())
