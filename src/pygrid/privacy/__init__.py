"""Differential privacy as pure functions: clipping, noise, the cost of mechanisms, and budgets.

    clipping, noise ──> mechanisms      a noisy sum whose sensitivity is the stated one for all inputs
    events ──> accountants ──> ledger   records of use ──> (epsilon, delta) ──> is another charge allowed?

``docs/explanation/privacy.md`` states what is guaranteed, to whom, and under which assumptions.
"""
