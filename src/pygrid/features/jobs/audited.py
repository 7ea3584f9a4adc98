"""Writes that leave an entry in the audit log, whose head is then repeated in a file beside the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from pygrid.storage import audit
from pygrid.storage.database import Database

logger = logging.getLogger(__name__)

T = TypeVar("T")


class AuditedWrites:
    """`Database.write` for what is audited.

    Args:
        head_file: where the head of the log is repeated, so that an old copy of the database that is put back is noticed.
    """

    def __init__(self, database: Database, head_file: Path) -> None:
        self._database = database
        self._head_file = head_file
        self._exporting = asyncio.Lock()

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` under the lock of the audit log, durably; then export the head. Raises what `Database.write` raises.

        What was written is written, so a head that can't be exported is logged, and goes out with the next one.
        """

        def transaction(connection: sa.Connection) -> T:
            audit.lock(connection)
            return fn(connection)

        answer = await self._database.write(transaction)
        async with self._exporting:
            head = await self._database.read(audit.get_head)
            try:
                await asyncio.to_thread(audit.export_head, head, self._head_file)
            except Exception:
                logger.exception("audit head not exported", extra={"number": head.number})
        return answer
