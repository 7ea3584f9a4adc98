"""Messages of search: a query to all Domains of a Network, and the answers of the Domains.

The types limit all lengths, because the answers of Domains are untrusted.
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
"""Why a Domain is missing: it did not answer in time, it is not connected, or its answer is not valid."""

MAX_TEXT = 1000
MAX_TAGS = 20
MAX_TIMEOUT_S = 10.0
DEFAULT_TIMEOUT_S = 1.0
MAX_ITEMS = 100
"""Items of each kind in one answer of a Domain."""
MAX_COLUMNS = 50
"""Columns of a dataset in an answer."""
MAX_SNIPPET = 500
"""Characters of a description in an answer."""
MAX_NAMES = 2000
"""Tags in a summary, and models in a summary."""

_Short = Annotated[str, Meta(max_length=200)]
_Tag = Annotated[str, Meta(min_length=1, max_length=50)]
_ModelId = Annotated[str, Meta(min_length=1, max_length=100)]
_Snippet = Annotated[str, Meta(max_length=MAX_SNIPPET)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Version = Annotated[str, Meta(max_length=100)]


class SearchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A search. An item must match every field that is set; an empty query matches everything that is public.

    ``tags`` and the three fields about a column match datasets only, ``model`` matches models only.
    """

    text: Annotated[str, Meta(max_length=MAX_TEXT)] = ""
    """Words, all of which occur in the name, tags or description of the item."""
    tags: Annotated[Sequence[_Tag], Meta(max_length=MAX_TAGS)] = ()
    """Tags, all of which the dataset has."""
    column: Annotated[str, Meta(max_length=100)] = ""
    """Name of a column."""
    dtype: Dtype | None = None
    """Dtype of that column."""
    meaning: _Short = ""
    """Part of the meaning of that column."""
    model: Annotated[str, Meta(max_length=100)] = ""
    """The id of a model."""
    kinds: Annotated[Sequence[Kind], Meta(max_length=3)] = ()
    """Only items of these kinds. Empty: all kinds."""


class SearchRequest(SearchQuery, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A search at a Network."""

    timeout_s: Annotated[float, Meta(ge=0.01, le=MAX_TIMEOUT_S)] = DEFAULT_TIMEOUT_S
    """Seconds after which the Network answers with what it has."""


class FoundColumn(msgspec.Struct, frozen=True, omit_defaults=True):
    """The public description of a column."""

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
    """Id on its Domain. 0: the dataset is on a node of 2020, which publishes tags only."""
    name: Annotated[str, Meta(max_length=100)]
    description: _Snippet
    """The beginning of the description."""
    tags: Annotated[Sequence[_Tag], Meta(max_length=50)]
    version: _Count
    num_records: _Count
    num_columns: _Count
    columns: Annotated[Sequence[FoundColumn], Meta(max_length=MAX_COLUMNS)]
    """The first columns."""
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
    """SHA-256 of the file. Empty if a node of 2020 serves the model."""


class FoundProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted process that is public."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    version: Annotated[str, Meta(min_length=1, max_length=200)]
    state: Literal["active", "paused", "finished"]
    num_parameters: _Count
    created_at: dt.datetime


class CatalogAnswer(msgspec.Struct, frozen=True):
    """The answer of a Domain to a `SearchQuery`."""

    version: _Version
    """Version of all published content. While it is the same, the answer is the same."""
    datasets: Annotated[Sequence[FoundDataset], Meta(max_length=MAX_ITEMS)] = ()
    models: Annotated[Sequence[FoundModel], Meta(max_length=MAX_ITEMS)] = ()
    processes: Annotated[Sequence[FoundProcess], Meta(max_length=MAX_ITEMS)] = ()
    more: bool = False
    """Whether more items match than the answer has."""


class CatalogSummary(msgspec.Struct, frozen=True):
    """The tags and models that a Domain publishes."""

    version: _Version
    tags: Annotated[Sequence[_Tag], Meta(max_length=MAX_NAMES)] = ()
    models: Annotated[Sequence[_ModelId], Meta(max_length=MAX_NAMES)] = ()


class DomainRef(msgspec.Struct, frozen=True):
    """The Domain on which an item was found."""

    name: str
    state: DomainState
    address: str
    """``http(s)://...``: the Domain itself; ``grid+http(s)://...``: the relay of the Network."""
    identity: str
    """Ed25519 key of the Domain. Empty for a node of 2020."""


class DatasetHit(FoundDataset, frozen=True, kw_only=True):
    domain: DomainRef


class ModelHit(FoundModel, frozen=True, kw_only=True):
    domain: DomainRef


class ProcessHit(FoundProcess, frozen=True, kw_only=True):
    domain: DomainRef


class Missing(msgspec.Struct, frozen=True):
    """A Domain of the Network that did not answer."""

    domain: str
    reason: Reason


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The items that arrived before the deadline, best first, and the Domains that are missing."""

    datasets: tuple[DatasetHit, ...]
    models: tuple[ModelHit, ...]
    processes: tuple[ProcessHit, ...]
    missing: tuple[Missing, ...]
    num_domains: int
    """Number of Domains of the Network."""
    more: bool
    """Whether more items match than the answer has."""
