"""Parameters of routes that several features have."""

from __future__ import annotations

from typing import Annotated

from litestar.params import PathParameter, QueryParameter

PathId = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]
"""Number of a row, in a path."""
HexId = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$")]
"""Random id, in a path."""
FileHash = Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$")]
"""SHA-256 of a file, in a path."""
AfterId = Annotated[int, QueryParameter(ge=0, le=2**31 - 1)]
"""A list begins after the row of this number."""
PageSize = Annotated[int, QueryParameter(ge=1, le=1000)]
"""Largest number of rows of an answer."""
