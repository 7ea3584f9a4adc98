"""What people can find out at a Network: what its Domains publish, and which of them serve a model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec

from pygrid.core.discovery import ByteLimit, check_query, relevance
from pygrid.features.discovery.fanout import Asking, FanoutResult
from pygrid.features.discovery.registry import DomainRegistry, SearchTarget
from pygrid.messages.discovery import (
    DEFAULT_TIMEOUT_S,
    CatalogAnswer,
    CatalogSummary,
    DatasetHit,
    DomainRef,
    DomainState,
    ModelHit,
    ProcessHit,
    SearchAnswer,
    SearchQuery,
)
from pygrid.transport.address import RelayedAddress

MAX_HITS = 1000
"""Of each kind in one answer."""
MAX_SEARCH_BYTES = 4 * 1024**2
"""Of one answer."""

H = TypeVar("H", DatasetHit, ModelHit, ProcessHit)


class DiscoveryService:
    """The use cases of search.

    Args:
        num_replicas: Domains that are named for a model that none serves yet.
    """

    def __init__(self, fleet: DomainRegistry, num_replicas: int, asking: Asking | None = None) -> None:
        self.fleet = fleet
        self._num_replicas = num_replicas
        self._asking = asking or Asking()

    async def search(self, query: SearchQuery, timeout_s: float, network_url: str) -> SearchAnswer:
        """What the Domains publish that fits, as far as it came within ``timeout_s``.

        Args:
            network_url: of this Network as the caller knows it, for addresses of Domains that are reached through it.
        Raises:
            InvalidInput: ``invalid_search``.
        """
        query = check_query(query)
        members = self.fleet.members()
        payload: dict[str, Any] = msgspec.to_builtins(query)
        asked = await self._asking.ask_all(members, "search", payload, CatalogAnswer, timeout_s)
        words = query.text.split()
        datasets: list[tuple[int, DatasetHit]] = []
        models: list[tuple[int, ModelHit]] = []
        processes: list[tuple[int, ProcessHit]] = []
        for member, answer in asked.answers:
            ref = _refer(member, network_url)
            datasets += [(relevance(words, one.name, one.tags), _hit(DatasetHit, one, ref)) for one in answer.datasets]
            models += [(relevance(words, one.id), _hit(ModelHit, one, ref)) for one in answer.models]
            processes += [(relevance(words, one.name), _hit(ProcessHit, one, ref)) for one in answer.processes]
        room = ByteLimit(MAX_SEARCH_BYTES, MAX_HITS)
        best = room.take(_best_first(models)), room.take(_best_first(processes)), room.take(_best_first(datasets))
        return SearchAnswer(
            datasets=best[2],
            models=best[0],
            processes=best[1],
            missing=tuple(asked.missing),
            num_domains=len(members),
            more=room.is_full or any(answer.more for _, answer in asked.answers),
        )

    async def summaries(self) -> FanoutResult[CatalogSummary]:
        """The names of what each Domain publishes."""
        return await self._asking.ask_all(self.fleet.members(), "summary", {}, CatalogSummary, DEFAULT_TIMEOUT_S)

    async def find_hosts(self, model_id: str) -> list[SearchTarget]:
        """The Domains that serve a model, as far as they answer."""
        return [member for member, summary in (await self.summaries()).answers if model_id in summary.models]

    async def choose_hosts(self, model_id: str | None) -> list[SearchTarget]:
        """Domains to serve a model: those that do so already, else as many as are wanted of those that are online, by
        lot.
        """
        hosts = await self.find_hosts(model_id) if model_id is not None else []
        return hosts or self.draw_online(self._num_replicas)

    def choose_shareholders(self) -> list[SearchTarget]:
        """For each replica two that would hold shares of a model, one that provides randomness, one host; none if too
        few.
        """
        wanted = 4 * self._num_replicas
        drawn = self.draw_online(wanted)
        return drawn if len(drawn) == wanted else []

    def draw_online(self, most: int) -> list[SearchTarget]:
        """So many Domains that are online, by lot; all of them if there are fewer."""
        online = [member for member in self.fleet.members() if member.state == "online"]
        return random.sample(online, min(most, len(online)))

    async def close(self) -> None:
        """Give up what is still asked."""
        await self._asking.close()


def address_of(member: SearchTarget, network_url: str) -> str:
    """Where callers reach a Domain: directly, else through the relay of this Network."""
    return member.address or str(RelayedAddress(network_url.rstrip("/"), member.name))


def _refer(member: SearchTarget, network_url: str) -> DomainRef:
    return DomainRef(
        member.name, cast(DomainState, str(member.state)), address_of(member, network_url), member.identity
    )


def _hit(kind: type[H], found: Any, ref: DomainRef) -> H:
    return kind(domain=ref, **msgspec.structs.asdict(found))


def _best_first(scored: Iterable[tuple[int, H]]) -> Iterable[H]:
    """By score. Sorting is stable: among equals a Domain's own order stays, newest first."""
    return (hit for _, hit in sorted(scored, key=lambda pair: -pair[0]))
