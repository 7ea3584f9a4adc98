"""The Domains of a Network, as discovery uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class SearchTarget(Protocol):
    """An accepted Domain in its present state."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str:
        """A `DomainState`."""
        ...

    @property
    def address(self) -> str:
        """The address for direct calls; empty: only the relay reaches it."""
        ...

    @property
    def identity(self) -> str:
        """The Domain's key; empty for a node of 2020."""
        ...

    @property
    def catalog(self) -> str:
        """Last reported version of its public content; empty: it reports none, and its answers are not cached."""
        ...

    async def request(self, type: str, payload: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the Domain's answer.

        Raises:
            PygridError: the Domain is offline, refuses, or does not answer in time (`TooSlow`).
        """
        ...


class DomainRegistry(Protocol):
    """All Domains of a Network."""

    def members(self) -> Sequence[SearchTarget]:
        """Return all accepted Domains, connected or not."""
        ...
