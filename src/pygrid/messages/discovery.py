"""Messages of search: what is asked of all Domains of a Network at once, and what each tells of what it publishes.

Lengths are part of the types: whatever a Domain sends is a stranger's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pygrid.messages.datasets import Dtype

Kind = Literal["dataset", "model", "process"]
DomainState = Literal["online", "degraded", "offline"]
Reason = Literal["timeout", "offline", "error"]
"""Why a Domain is missing: it did not answer in time; it is not connected; it answered something else than an answer.
"""

MAX_TEXT = 1000
MAX_TAGS = 20
MAX_TIMEOUT_S = 10.0
DEFAULT_TIMEOUT_S = 1.0
MAX_ITEMS = 100
"""Of each kind, that one Domain tells in one answer."""
MAX_COLUMNS = 50
"""Of a dataset, that are told in an answer."""
MAX_SNIPPET = 500
"""Characters of a description in an answer."""
MAX_NAMES = 2000
"""Tags, and models, in a summary."""

_Short = Annotated[str, Meta(max_length=200)]
_Tag = Annotated[str, Meta(min_length=1, max_length=50)]
_ModelId = Annotated[str, Meta(min_length=1, max_length=100)]
_Snippet = Annotated[str, Meta(max_length=MAX_SNIPPET)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Version = Annotated[str, Meta(max_length=100)]


class SearchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is wanted; each field that is given must fit, and an empty query fits everything that is public.

    ``tags`` and the three about a column are only asked of datasets, ``model`` only of models.
    """

    text: Annotated[str, Meta(max_length=MAX_TEXT)] = ""
    """Words, each of which occurs in what is said of the thing."""
    tags: Annotated[Sequence[_Tag], Meta(max_length=MAX_TAGS)] = ()
    """The dataset has all of them."""
    column: Annotated[str, Meta(max_length=100)] = ""
    """Name of a column."""
    dtype: Dtype | None = None
    """Of that column."""
    meaning: _Short = ""
    """A part of what that column means."""
    model: Annotated[str, Meta(max_length=100)] = ""
    """The id of a model."""
    kinds: Annotated[Sequence[Kind], Meta(max_length=3)] = ()
    """Only things of these kinds; none given: all."""


class SearchRequest(SearchQuery, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A search at a Network."""

    timeout_s: Annotated[float, Meta(ge=0.01, le=MAX_TIMEOUT_S)] = DEFAULT_TIMEOUT_S
    """When to answer with what has come."""


class FoundColumn(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column of a dataset, as anybody may know it."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    dtype: Annotated[str, Meta(max_length=20)]
    shape: Annotated[Sequence[_Count], Meta(max_length=32)] = ()
    unit: _Short = ""
    meaning: _Short = ""


class FoundPort(msgspec.Struct, frozen=True):
    """An input or output of a model."""

    name: _Short
    dtype: Annotated[str, Meta(max_length=20)]
    shape: Annotated[Sequence[_Count | _Short], Meta(max_length=32)]


class FoundDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A public dataset."""

    id: Annotated[int, Meta(ge=0, le=2**53)]
    """On its Domain; 0: a node of 2020, which tells no more than tags, has it."""
    name: Annotated[str, Meta(max_length=100)]
    description: _Snippet
    """Its beginning."""
    tags: Annotated[Sequence[_Tag], Meta(max_length=50)]
    version: _Count
    num_records: _Count
    num_columns: _Count
    columns: Annotated[Sequence[FoundColumn], Meta(max_length=MAX_COLUMNS)]
    """The first ones."""
    updated_at: dt.datetime | None


class FoundModel(msgspec.Struct, frozen=True, kw_only=True):
    """A public model that a Domain serves."""

    id: _ModelId
    description: _Snippet
    inputs: Annotated[Sequence[FoundPort], Meta(max_length=64)]
    outputs: Annotated[Sequence[FoundPort], Meta(max_length=64)]
    allow_download: bool
    allow_remote_inference: bool
    num_parameters: _Count
    size_bytes: _Count
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]
    """Of its file: equal ones are the same model; empty where a node of 2020 serves it."""


class FoundProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted process that any device may know of."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    version: Annotated[str, Meta(min_length=1, max_length=200)]
    state: Literal["active", "finished"]
    num_parameters: _Count
    created_at: dt.datetime


class CatalogAnswer(msgspec.Struct, frozen=True):
    """What a Domain answers to a `SearchQuery`."""

    version: _Version
    """Of all that the Domain publishes: with the same one it would answer the same."""
    datasets: Annotated[Sequence[FoundDataset], Meta(max_length=MAX_ITEMS)] = ()
    models: Annotated[Sequence[FoundModel], Meta(max_length=MAX_ITEMS)] = ()
    processes: Annotated[Sequence[FoundProcess], Meta(max_length=MAX_ITEMS)] = ()
    more: bool = False
    """Whether more fits than is told."""


class CatalogSummary(msgspec.Struct, frozen=True):
    """Names of what a Domain publishes."""

    version: _Version
    tags: Annotated[Sequence[_Tag], Meta(max_length=MAX_NAMES)] = ()
    models: Annotated[Sequence[_ModelId], Meta(max_length=MAX_NAMES)] = ()


class DomainRef(msgspec.Struct, frozen=True):
    """Where something was found."""

    name: str
    state: DomainState
    address: str
    """``http(s)://...``: of the Domain itself; ``grid+http(s)://...``: through the relay of the Network."""
    identity: str
    """The Domain's Ed25519 key; empty for a node of 2020, which has none."""


class DatasetHit(FoundDataset, frozen=True, kw_only=True):
    domain: DomainRef


class ModelHit(FoundModel, frozen=True, kw_only=True):
    domain: DomainRef


class ProcessHit(FoundProcess, frozen=True, kw_only=True):
    domain: DomainRef


class Missing(msgspec.Struct, frozen=True):
    """A Domain that belongs to the Network and did not answer."""

    domain: str
    reason: Reason


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came before the deadline, best first, and who is missing."""

    datasets: tuple[DatasetHit, ...]
    models: tuple[ModelHit, ...]
    processes: tuple[ProcessHit, ...]
    missing: tuple[Missing, ...]
    num_domains: int
    """That belong to the Network."""
    more: bool
    """Whether more fits than is told."""
