"""What discovery needs of the Domains of a Network; who belongs to it is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class SearchTarget(Protocol):
    """A Domain that was accepted, as it is at the moment."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str:
        """A `DomainState`."""
        ...

    @property
    def address(self) -> str:
        """Where it can be called directly; empty: through the relay only."""
        ...

    @property
    def identity(self) -> str:
        """Its key; empty for a node of 2020, which has none."""
        ...

    @property
    def catalog(self) -> str:
        """The version of its public things, as it told last; empty: it tells none, and nothing of it is remembered."""
        ...

    async def ask(self, type: str, payload: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Its answer. Raises PygridError: it is not there, refuses, or does not answer in time (`TooSlow`)."""
        ...


class DomainRegistry(Protocol):
    """All Domains of a Network."""

    def members(self) -> Sequence[SearchTarget]:
        """Those that were accepted, whether they are there now or not."""
        ...
