"""Differential privacy, pure: clipping, noise, what a mechanism costs, what a budget allows.

    clipping, noise ──> mechanisms      a noisy sum whose sensitivity is what it says, whatever was added
    events ──> accountants ──> ledger   what was used ──> (epsilon, delta) ──> may there be more?

``docs/privacy.md`` says what is guaranteed, to whom and under which assumptions.
"""
