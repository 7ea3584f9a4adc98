"""Asks many Domains the same at once, and remembers what each answered for as long as it would answer the same.

An answer is kept under the Domain's name, the version of its public things, and the question. A Domain tells a new
version before the author of a change is answered, so what was made private is found by no search that begins after
that.

A Domain that is late for one caller is not given up: its answer is kept for the next.
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
"""Questions to one Domain that wait for their answers; more count as not answered in time."""

T = TypeVar("T", CatalogAnswer, CatalogSummary)
_Key = tuple[str, str, bytes]
_NOT_THERE = frozenset({"link_closed", "domain_offline", "connection_failed", "connection_lost"})


@dataclass(frozen=True)
class FanoutResult(Generic[T]):
    """What came in time, by the Domain's place in the question, and who is missing."""

    answers: list[tuple[SearchTarget, T]]
    missing: list[Missing]


class Asking:
    """Asks Domains and remembers their answers, within bounds."""

    def __init__(self, metrics: Metrics | None = None, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_cache_bytes = max_cache_bytes
        self._cache: OrderedDict[_Key, tuple[Any, int]] = OrderedDict()
        self._cached_bytes = 0
        self._open: dict[_Key, asyncio.Task[Any]] = {}
        self._num_open: collections.Counter[str] = collections.Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outcomes = None if metrics is None else _count_outcomes(metrics)

    async def ask_all(
        self, members: Sequence[SearchTarget], type: str, payload: dict[str, Any], answer: type[T], timeout_s: float
    ) -> FanoutResult[T]:
        """What the Domains answer within ``timeout_s``; those that are known to be offline are not asked."""
        question = type.encode() + b"\0" + msgspec.json.encode(payload)
        came: dict[str, T] = {}
        missing: dict[str, Reason] = {}
        waiting: dict[asyncio.Task[T], SearchTarget] = {}
        for member in members:
            if member.state == "offline":
                missing[member.name] = "offline"
            elif (known := self._recall((member.name, member.catalog, question))) is not None:
                came[member.name] = known
                self._count("remembered")
            elif (task := self._begin(member, type, payload, question, answer)) is not None:
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
        """Give up what is still open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(
        self, member: SearchTarget, type: str, payload: dict[str, Any], question: bytes, answer: type[T]
    ) -> asyncio.Task[T] | None:
        """The question on its way, one for all who ask the same; None if too many are open."""
        key = (member.name, member.catalog, question)
        if (task := self._open.get(key)) is not None:
            return task
        if self._num_open[member.name] >= MAX_OPEN:
            return None
        task = asyncio.create_task(self._ask(member, type, payload, question, answer))
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
                task.exception()  # it may have come too late for everybody

        task.add_done_callback(end)
        return task

    async def _ask(
        self, member: SearchTarget, type: str, payload: dict[str, Any], question: bytes, answer: type[T]
    ) -> T:
        name, knows_versions = member.name, bool(member.catalog)
        raw = await member.ask(type, payload, MAX_TIMEOUT_S)
        try:
            found = msgspec.convert(raw, answer)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the answer is refused: {error}", code=codes.INVALID_ANSWER) from error
        size = check_foreign(found)
        if knows_versions:
            self._keep((name, found.version, question), found, size)
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
        "Domains that a search was about: answered, remembered, or why they are missing.",
        ("outcome",),
        registry=metrics.registry,
    )


def _reason(error: BaseException, domain: str) -> Reason:
    if isinstance(error, TooSlow):
        return "timeout"
    if isinstance(error, PygridError):
        if error.code in _NOT_THERE:
            return "offline"
        logger.warning("Domain answered wrongly", extra={"domain": domain, "why": error.code})
    else:
        logger.error("Domain could not be asked", exc_info=error, extra={"domain": domain})
    return "error"
