"""The variants of a plan in words and numbers."""

from __future__ import annotations

from collections import Counter

import msgspec

from pygrid.plans.archive import Plan

MEANINGS = {
    "tfjs": "for syft.js in browsers: a list of tfjs commands",
    "torchscript": "for KotlinSyft and SwiftSyft: TorchScript, which no Domain opens",
    "list": "for workers of PySyft 0.2: a list of torch commands",
}


class VariantSummary(msgspec.Struct, frozen=True):
    """One variant for one batch size."""

    dialect: str
    meaning: str
    batch_size: int
    size_bytes: int
    num_actions: int
    commands: dict[str, int]
    """Command -> number of actions, most frequent first."""


class VariantsSummary(msgspec.Struct, frozen=True):
    """All variants of a plan, and why it does not have the others."""

    variants: tuple[VariantSummary, ...]
    unavailable: dict[str, str]


def summarize_variants(plan: Plan) -> VariantsSummary | None:
    """The variants of a plan; None if it was not built for clients of 2020.

    Raises:
        InvalidInput: ``invalid_protobuf``: a variant is not a Plan.
    """
    from pygrid.syft import read_plan  # here, because most plans have no variants

    if plan.variants is None:
        return None
    found = []
    for variant in plan.variants.variants:
        for one in variant.plans:
            actions = read_plan(one.plan).actions
            commands = dict(Counter(action.command for action in actions).most_common())
            meaning = MEANINGS[variant.dialect]
            found.append(
                VariantSummary(variant.dialect, meaning, one.batch_size, len(one.plan), len(actions), commands)
            )
    return VariantsSummary(tuple(found), plan.variants.unavailable)
