"""Changes of datasets: their transactions, their audit entries, and the notices to all who show or cache datasets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from pygrid.clock import Clock
from pygrid.core.access import Principal
from pygrid.messages.datasets import DatasetInfo, Visibility
from pygrid.storage import audit
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.idempotency import once
from pygrid.storage.signals import datasets_topic
from pygrid.storage.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")


class DatasetChanges:
    """Changes the datasets of a Domain.

    Args:
        writes: transactions of the audit log.
    """

    def __init__(self, store: Store, writes: AuditedWrites, clock: Clock) -> None:
        self._public, self._signals = store.public, store.signals
        self._writes = writes
        self._clock = clock

    def record(self, connection: sa.Connection, principal: Principal, action: str, **data: object) -> None:
        """Add an entry to the audit log, as part of the transaction."""
        audit.append(connection, action, data, actor=principal.user_id, now=self._clock.now())

    async def write(self, transaction: Callable[[sa.Connection], tuple[T, tuple[Visibility, ...]]]) -> T:
        """Return the first result of a transaction; its second one is each visibility that the dataset has or had."""
        result, visibilities = await self._writes.write(transaction)
        await self._notify(*visibilities)
        return result

    async def add(self, phrase: str, transaction: Callable[[sa.Connection], DatasetInfo]) -> DatasetInfo:
        """Return the dataset to which a transaction has added a version; a repeated call gets the same answer.

        Args:
            phrase: for the log.
        """
        info = await self._writes.write(once(transaction))
        await self._notify(info.visibility)
        logger.info(phrase, extra={"dataset_id": info.id, "version": info.version, "size_bytes": info.size_bytes})
        return info

    async def _notify(self, *visibilities: Visibility) -> None:
        self._signals.notify(datasets_topic())
        if "public" in visibilities:
            await self._public.changed()
