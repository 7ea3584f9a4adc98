"""Prepared columns: columns of a dataset that a Domain computes from other columns, by steps that are data.

    age_std = fill 40, then clip 0..120, then standardize, of age

Each step maps one value to one value (or to one array), by constants that the data owner declares. No step depends on
another record, so a prepared column says no more about a record than the column that it comes from.
"""

from __future__ import annotations

import msgspec


class PreparationStep(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="step", kw_only=True
):
    """One step of a preparation."""


class FillStep(PreparationStep, frozen=True, tag="fill"):
    """Puts a value in the place of missing ones."""

    value: float | str
    """A number, a date such as ``2020-12-31``, or one of the declared categories."""


class ClipStep(PreparationStep, frozen=True, tag="clip"):
    """Moves values outside a range to its ends."""

    low: float | str | None = None
    high: float | str | None = None
    """Numbers, or dates. None: no bound at this end."""


class StandardizeStep(PreparationStep, frozen=True, tag="standardize"):
    """Maps the declared bounds of the column, or those of a clip before it, to a range."""

    low: float = -1.0
    high: float = 1.0


class BucketizeStep(PreparationStep, frozen=True, tag="bucketize"):
    """Makes a category of a number or a date: below the first edge, from each edge to below the next, from the last."""

    edges: tuple[float | str, ...]


class OneHotStep(PreparationStep, frozen=True, tag="one_hot"):
    """Makes an array with a one at the place of the category, truth value or label, and zeros elsewhere.

    A missing category makes zeros only.
    """


Step = FillStep | ClipStep | StandardizeStep | BucketizeStep | OneHotStep


class PreparedFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the values of a prepared column are computed."""

    source: str
    """The column that it is computed from."""
    steps: tuple[Step, ...]
    """In their order."""


class Preparation(PreparedFrom, frozen=True, forbid_unknown_fields=True):
    """The owner's description of a prepared column."""

    name: str
    """A name that no column of the file has."""


class PrepareRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes to the prepared columns of a dataset; they make a new version."""

    columns: tuple[Preparation, ...] = ()
    """New prepared columns. One with the name of an earlier prepared column replaces it."""
    remove: tuple[str, ...] = ()
    """Prepared columns that the new version does not have."""
    note: str = ""
    """What is new in this version."""
    fresh_budget: bool = False
    """As in `pygrid.messages.datasets.VersionRequest`."""
