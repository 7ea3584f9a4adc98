"""The nodes of 2020 that are connected to a Domain: it remembers their ids and addresses until it stops."""

from __future__ import annotations

MAX_NODES = 1000


class KnownNodes:
    """The connected nodes, oldest first."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}

    def put(self, name: str, address: str) -> None:
        """Add a node, or change its address; the oldest of more than `MAX_NODES` is forgotten."""
        self._addresses[name] = address
        if len(self._addresses) > MAX_NODES:
            del self._addresses[next(iter(self._addresses))]

    def list_ids(self) -> list[str]:
        return list(self._addresses)
