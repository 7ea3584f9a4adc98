"""Variants of a training plan for clients of 2020: a list of tfjs commands, TorchScript, or a list of torch commands.

A variant has the same step for fixed batch sizes. It is not part of the plan file, whose hash is signed. It lies next
to it, in a file of its own that names the plan, or travels as a further part of the form, ``plan:NAME:tfjs``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pygrid import codes
from pygrid.errors import InvalidPlan

FORMAT = 1
SUFFIX = ".variants"
"""Added to the name of a plan file, it is the name of the file with the variants."""
Dialect = Literal["tfjs", "torchscript", "list"]
DIALECTS: tuple[Dialect, ...] = ("tfjs", "torchscript", "list")
MAX_PLAN_BYTES = 8 * 1024 * 1024
MAX_BATCH_SIZES = 16
MAX_VARIANT_BYTES = 24 * 1024 * 1024
MAX_FILE_BYTES = 3 * MAX_VARIANT_BYTES


class VariantPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The step for one batch size: the bytes of a protobuf ``Plan``, in base64."""

    batch_size: int
    plan: bytes


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan in one dialect."""

    format: int
    plan_id: str
    """SHA-256 of the plan file."""
    dialect: Dialect
    plans: tuple[VariantPlan, ...]

    def to_bytes(self) -> bytes:
        """The JSON of the part ``plan:NAME:DIALECT``."""
        return msgspec.json.encode(self)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(one.batch_size for one in self.plans)


class Variants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All variants of a plan."""

    format: int
    plan_id: str
    variants: tuple[Variant, ...] = ()
    unavailable: dict[str, str] = {}
    """Dialect -> why the plan does not have it."""

    def to_bytes(self) -> bytes:
        """The JSON of the file."""
        return msgspec.json.encode(self)


def read_variant(data: bytes) -> Variant:
    """The variant in a part of a form. Raises InvalidPlan: ``plan_variant_invalid``."""
    if len(data) > MAX_VARIANT_BYTES:
        raise _invalid(f"it has {len(data):,} bytes; at most {MAX_VARIANT_BYTES:,} are allowed")
    try:
        variant = msgspec.json.decode(data, type=Variant)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from error
    _check(variant)
    return variant


def read_variants(data: bytes, plan_id: str) -> Variants:
    """The variants in a file that belongs to a plan.

    Raises:
        InvalidPlan: ``plan_variant_invalid``: the file is not valid, or belongs to another plan.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _invalid(f"it has {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are allowed")
    try:
        variants = msgspec.json.decode(data, type=Variants)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from error
    for variant in variants.variants:
        _check(variant)
    if {variants.plan_id, *(variant.plan_id for variant in variants.variants)} != {plan_id}:
        raise _invalid("it belongs to another plan; build the plan again, or delete the file")
    return variants


def _check(variant: Variant) -> None:
    if variant.format != FORMAT:
        raise _invalid(f"it has the format {variant.format}; this version of pygrid reads format {FORMAT}")
    sizes = variant.batch_sizes
    if not 1 <= len(sizes) <= MAX_BATCH_SIZES or len(set(sizes)) != len(sizes) or min(sizes) < 1:
        raise _invalid(f"it must have 1 to {MAX_BATCH_SIZES} different batch sizes, each at least 1")
    if any(len(one.plan) > MAX_PLAN_BYTES for one in variant.plans):
        raise _invalid(f"a plan in it has more than {MAX_PLAN_BYTES:,} bytes")


def _invalid(why: str) -> InvalidPlan:
    return InvalidPlan(f"the variant is not valid: {why}", code=codes.PLAN_VARIANT_INVALID)
