"""Deterministic schedules of the replicated design: processes, devices, a store and an adversary, driven by a seed.

    kernel      actors, time, locks and transactions; crashes, pauses and lost signals
    cycles      reports, admission, partial sums, closing, events
    jobs        claims, budget, results, takeovers, people
    garbage     the deletion of bytes without a row
    running     a seed, many seeds, the shortest trace of a failure

The decisions are those of `pygrid.core`. The models hold the steps between them, each of which can be interrupted.
"""
