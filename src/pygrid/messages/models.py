"""Messages about served models: what is said of one, and what its owner allows.

The lists have the fields of the published interface (``success``, ``models``, ``model_size``, ``mpc``) and more beside
them.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

ModelVisibility = Literal["listed", "public"]
"""Who may know of a model: everybody with an account on its Domain, or everybody, through the Networks of the Domain
too.
"""


class PortInfo(msgspec.Struct, frozen=True):
    """One input or output; the first size is ``batch`` where it is the number of examples."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ServeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``config`` part of the form that serves a model."""

    model_id: str
    description: str = ""
    allow_download: bool = False
    """Whether others may take the file."""
    allow_remote_inference: bool = False
    """Whether others may ask it."""
    max_batch_size: int = 64
    """Examples of one question at most."""
    visibility: ModelVisibility = "listed"


class ServedModelInfo(msgspec.Struct, frozen=True):
    """A model that is served."""

    id: str
    description: str
    model_size: str
    """For people, e.g. ``12KB``."""
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
    """Whether the questions of several callers may be answered together."""
    created_at: dt.datetime
    mine: bool
    """Whether the caller may download, ask and delete it whatever is allowed to others."""
    mpc: bool = False
    """Of the published interface: no model is shared out."""
    visibility: ModelVisibility = "listed"


class ServedModel(msgspec.Struct, frozen=True):
    """The answer to who serves a model."""

    message: str
    model: ServedModelInfo
    success: bool = True


class ModelIds(msgspec.Struct, frozen=True):
    """The ids of the models that are served, sorted."""

    models: list[str]
    success: bool = True


class ModelList(msgspec.Struct, frozen=True):
    """The models that are served, sorted by id."""

    models: list[ServedModelInfo]
    success: bool = True
