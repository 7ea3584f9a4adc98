"""Search at a Network: the public content of its Domains, and the Domains that serve a model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec

from pygrid import codes
from pygrid.core.associations import name_key
from pygrid.core.discovery import ByteLimit, check_query, relevance
from pygrid.errors import NotFound
from pygrid.features.discovery.fanout import Fanout, FanoutResult
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
"""Hits of each kind in one answer."""
MAX_SEARCH_BYTES = 4 * 1024**2
"""Size of one answer."""

H = TypeVar("H", DatasetHit, ModelHit, ProcessHit)


class DiscoveryService:
    """The use cases of search.

    Args:
        num_replicas: number of Domains that are proposed for a model that no Domain serves.
    """

    def __init__(self, domains: DomainRegistry, num_replicas: int, fanout: Fanout | None = None) -> None:
        self.domains = domains
        self._num_replicas = num_replicas
        self._fanout = fanout or Fanout()

    async def search(self, query: SearchQuery, timeout_s: float, network_url: str) -> SearchAnswer:
        """Search the public content of all Domains, with the answers that arrive within ``timeout_s``.

        Args:
            network_url: address of this Network as the caller knows it, for Domains that are reached through its relay.
        Raises:
            InvalidInput: ``invalid_search``.
        """
        query = check_query(query)
        members = self.domains.members()
        payload: dict[str, Any] = msgspec.to_builtins(query)
        asked = await self._fanout.query_all(members, "search", payload, CatalogAnswer, timeout_s)
        words = query.text.split()
        datasets: list[tuple[int, DatasetHit]] = []
        models: list[tuple[int, ModelHit]] = []
        processes: list[tuple[int, ProcessHit]] = []
        for member, answer in asked.answers:
            ref = _refer(member, network_url)
            datasets += [(relevance(words, one.name, one.tags), _hit(DatasetHit, one, ref)) for one in answer.datasets]
            models += [(relevance(words, one.id), _hit(ModelHit, one, ref)) for one in answer.models]
            processes += [(relevance(words, one.name), _hit(ProcessHit, one, ref)) for one in answer.processes]
        limit = ByteLimit(MAX_SEARCH_BYTES, MAX_HITS)
        best = limit.take(_best_first(models)), limit.take(_best_first(processes)), limit.take(_best_first(datasets))
        return SearchAnswer(
            datasets=best[2],
            models=best[0],
            processes=best[1],
            missing=tuple(asked.missing),
            num_domains=len(members),
            more=limit.is_full or any(answer.more for _, answer in asked.answers),
        )

    async def summaries(self) -> FanoutResult[CatalogSummary]:
        """Return the names of the public content of each Domain."""
        return await self._fanout.query_all(self.domains.members(), "summary", {}, CatalogSummary, DEFAULT_TIMEOUT_S)

    def get_member(self, name: str) -> SearchTarget:
        """Return the Domain of this name. Raises NotFound: ``association_not_found``."""
        for member in self.domains.members():
            if name_key(member.name) == name_key(name):
                return member
        raise NotFound(
            f"this Network has no Domain {name[:100]!r}", code=codes.ASSOCIATION_NOT_FOUND, domain=name[:100]
        )

    async def summarize(self, member: SearchTarget) -> FanoutResult[CatalogSummary]:
        """Return the names of the public content of one Domain; nothing, if it does not answer."""
        return await self._fanout.query_all([member], "summary", {}, CatalogSummary, DEFAULT_TIMEOUT_S)

    async def find_hosts(self, model_id: str) -> list[SearchTarget]:
        """Return the Domains that serve a model, among those that answer."""
        return [member for member, summary in (await self.summaries()).answers if model_id in summary.models]

    async def choose_hosts(self, model_id: str | None) -> list[SearchTarget]:
        """Return the Domains that serve a model, or else random Domains that are online, `num_replicas` of them."""
        hosts = await self.find_hosts(model_id) if model_id is not None else []
        return hosts or self.draw_online(self._num_replicas)

    def choose_shareholders(self) -> list[SearchTarget]:
        """Return four random Domains for each replica; none if too few are online.

        Two of the four hold shares of the model, one provides randomness, one is the host.
        """
        wanted = 4 * self._num_replicas
        drawn = self.draw_online(wanted)
        return drawn if len(drawn) == wanted else []

    def draw_online(self, most: int) -> list[SearchTarget]:
        """Return at most ``most`` random Domains that are online."""
        online = [member for member in self.domains.members() if member.state == "online"]
        return random.sample(online, min(most, len(online)))

    async def close(self) -> None:
        """Cancel the open requests."""
        await self._fanout.close()


def address_of(member: SearchTarget, network_url: str) -> str:
    """Return the address of a Domain for callers: its own, or that of the relay of this Network."""
    return member.address or str(RelayedAddress(network_url.rstrip("/"), member.name))


def _refer(member: SearchTarget, network_url: str) -> DomainRef:
    return DomainRef(
        member.name, cast(DomainState, str(member.state)), address_of(member, network_url), member.identity
    )


def _hit(kind: type[H], found: Any, ref: DomainRef) -> H:
    return kind(domain=ref, **msgspec.structs.asdict(found))


def _best_first(scored: Iterable[tuple[int, H]]) -> Iterable[H]:
    """Return the hits by score. Sorting is stable, so equal hits of a Domain keep its order, newest first."""
    return (hit for _, hit in sorted(scored, key=lambda pair: -pair[0]))
