"""Messages about served models.

The lists have the fields of the legacy interface (``success``, ``models``, ``model_size``, ``mpc``) and others.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

ModelVisibility = Literal["listed", "public"]
"""``listed``: visible to all accounts of the Domain. ``public``: visible to everybody, also through its Networks."""


class PortInfo(msgspec.Struct, frozen=True):
    """One input or output. The first size is ``batch`` if it is the number of examples."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ServeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of the form that serves a model."""

    model_id: str
    description: str = ""
    allow_download: bool = False
    """Whether other accounts may download the file."""
    allow_remote_inference: bool = False
    """Whether other accounts may request predictions."""
    max_batch_size: int = 64
    """Maximum number of examples in a request."""
    visibility: ModelVisibility = "listed"


class ServedModelInfo(msgspec.Struct, frozen=True):
    """A served model."""

    id: str
    description: str
    model_size: str
    """Size for people, for example ``12KB``."""
    size_bytes: int
    sha256: str
    allow_download: bool
    allow_remote_inference: bool
    inputs: tuple[PortInfo, ...]
    outputs: tuple[PortInfo, ...]
    max_batch_size: int
    num_parameters: int
    flops_per_example: int
    rows_independent: bool
    """Whether requests of several callers may be predicted in one batch."""
    created_at: dt.datetime
    mine: bool
    """Whether the caller may always download the model, request predictions and delete it."""
    mpc: bool = False
    """A field of the legacy interface: models are not split into shares."""
    visibility: ModelVisibility = "listed"


class ServedModel(msgspec.Struct, frozen=True):
    """The answer to serving a model."""

    message: str
    model: ServedModelInfo
    success: bool = True


class ModelIds(msgspec.Struct, frozen=True):
    """The sorted ids of the served models."""

    models: list[str]
    success: bool = True


class ModelList(msgspec.Struct, frozen=True):
    """The served models, sorted by id."""

    models: list[ServedModelInfo]
    success: bool = True
