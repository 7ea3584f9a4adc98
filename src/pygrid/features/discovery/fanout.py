"""Sends one request to many Domains in parallel, and caches each answer until the Domain's public content changes.

The key of a cached answer is the Domain's name, the version of its public content, and the request. A Domain reports a
new version before the author of a change gets an answer. So a search that begins after that answer does not find
content that was made private.

A request that is late for one caller goes on: its answer is cached for the next caller.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from prometheus_client import Counter

from pygrid import codes
from pygrid.core.discovery import check_foreign
from pygrid.errors import InvalidInput, PygridError, TooSlow
from pygrid.features.discovery.registry import SearchTarget
from pygrid.messages.discovery import MAX_TIMEOUT_S, CatalogAnswer, CatalogSummary, Missing, Reason
from pygrid.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_CACHE_BYTES = 32 * 1024**2
MAX_CACHE_ENTRIES = 20_000
MAX_OPEN = 64
"""Open requests to one Domain; a further one counts as a timeout."""

T = TypeVar("T", CatalogAnswer, CatalogSummary)
_Key = tuple[str, str, bytes]
_NOT_THERE = frozenset({"link_closed", "domain_offline", "connection_failed", "connection_lost"})


@dataclass(frozen=True)
class FanoutResult(Generic[T]):
    """The answers that came in time, in the order of the Domains, and the Domains that are missing."""

    answers: list[tuple[SearchTarget, T]]
    missing: list[Missing]


class Fanout:
    """Queries Domains and caches their answers, within bounds."""

    def __init__(self, metrics: Metrics | None = None, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_cache_bytes = max_cache_bytes
        self._cache: OrderedDict[_Key, tuple[Any, int]] = OrderedDict()
        self._cached_bytes = 0
        self._open: dict[_Key, asyncio.Task[Any]] = {}
        self._num_open: collections.Counter[str] = collections.Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outcomes = None if metrics is None else _count_outcomes(metrics)

    async def query_all(
        self, members: Sequence[SearchTarget], type: str, payload: dict[str, Any], answer: type[T], timeout_s: float
    ) -> FanoutResult[T]:
        """Return the answers that arrive within ``timeout_s``. Domains that are known to be offline are not queried."""
        request = type.encode() + b"\0" + msgspec.json.encode(payload)
        came: dict[str, T] = {}
        missing: dict[str, Reason] = {}
        waiting: dict[asyncio.Task[T], SearchTarget] = {}
        for member in members:
            if member.state == "offline":
                missing[member.name] = "offline"
            elif (known := self._recall((member.name, member.catalog, request))) is not None:
                came[member.name] = known
                self._count("remembered")
            elif (task := self._begin(member, type, payload, request, answer)) is not None:
                waiting[task] = member
            else:
                missing[member.name] = "timeout"
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        for task, member in waiting.items():
            if not task.done():
                missing[member.name] = "timeout"
            elif (error := task.exception()) is not None:
                missing[member.name] = _reason(error, member.name)
            else:
                came[member.name] = task.result()
                self._count("answered")
        for reason in missing.values():
            self._count(reason)
        return FanoutResult(
            [(member, came[member.name]) for member in members if member.name in came],
            [Missing(member.name, missing[member.name]) for member in members if member.name in missing],
        )

    async def close(self) -> None:
        """Cancel the open requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(
        self, member: SearchTarget, type: str, payload: dict[str, Any], request: bytes, answer: type[T]
    ) -> asyncio.Task[T] | None:
        """Return the task of a request, shared by all callers of the same request; None if too many are open."""
        key = (member.name, member.catalog, request)
        if (task := self._open.get(key)) is not None:
            return task
        if self._num_open[member.name] >= MAX_OPEN:
            return None
        task = asyncio.create_task(self._query(member, type, payload, request, answer))
        self._num_open[member.name] += 1
        self._tasks.add(task)
        if member.catalog:
            self._open[key] = task

        def end(_task: asyncio.Task[T]) -> None:
            self._open.pop(key, None)
            self._num_open[member.name] -= 1
            if not self._num_open[member.name]:
                del self._num_open[member.name]
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # retrieved here, because all callers may have timed out

        task.add_done_callback(end)
        return task

    async def _query(
        self, member: SearchTarget, type: str, payload: dict[str, Any], request: bytes, answer: type[T]
    ) -> T:
        name, knows_versions = member.name, bool(member.catalog)
        raw = await member.request(type, payload, MAX_TIMEOUT_S)
        try:
            found = msgspec.convert(raw, answer)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the answer is not valid: {error}", code=codes.INVALID_ANSWER) from error
        size = check_foreign(found)
        if knows_versions:
            self._keep((name, found.version, request), found, size)
        return found

    def _count(self, outcome: str) -> None:
        if self._outcomes is not None:
            self._outcomes.labels(outcome).inc()

    def _recall(self, key: _Key) -> Any:
        if not key[1] or (kept := self._cache.get(key)) is None:
            return None
        self._cache.move_to_end(key)
        return kept[0]

    def _keep(self, key: _Key, found: Any, size: int) -> None:
        size += len(key[2])
        if (old := self._cache.pop(key, None)) is not None:
            self._cached_bytes -= old[1]
        self._cache[key] = (found, size)
        self._cached_bytes += size
        while self._cached_bytes > self._max_cache_bytes or len(self._cache) > MAX_CACHE_ENTRIES:
            _, (_, dropped) = self._cache.popitem(last=False)
            self._cached_bytes -= dropped


def _count_outcomes(metrics: Metrics) -> Counter:
    return Counter(
        "pygrid_network_asked",
        "Domains of searches: answered, remembered (from the cache), or the reason why they are missing.",
        ("outcome",),
        registry=metrics.registry,
    )


def _reason(error: BaseException, domain: str) -> Reason:
    if isinstance(error, TooSlow):
        return "timeout"
    if isinstance(error, PygridError):
        if error.code in _NOT_THERE:
            return "offline"
        logger.warning("answer of a Domain refused", extra={"domain": domain, "why": error.code})
    else:
        logger.error("request to a Domain failed", exc_info=error, extra={"domain": domain})
    return "error"
