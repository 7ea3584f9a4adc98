"""Writes that leave an entry in the audit log, whose head is then repeated in a file beside the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from pygrid.errors import InvalidInput, Unavailable
from pygrid.storage import audit
from pygrid.storage.sql.database import Database

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
        self.is_rolled_back = False
        """Whether the log in the database is not the one whose head was exported: an old copy was put back, and what was
        spent since is missing from the budgets. Then no head is exported any more, and nothing private may run."""

    async def recover(self) -> None:
        """Compare the log with the head that was exported last; called once, before the first request."""

        def read() -> audit.Head | None:
            return audit.read_head(self._head_file) if self._head_file.exists() else None

        try:
            known = await asyncio.to_thread(read)
        except (InvalidInput, OSError):
            logger.exception("exported audit head cannot be read")
            self.is_rolled_back = True
            return
        if known is not None:
            self.is_rolled_back = not await self._database.read(lambda connection: audit.leads_through(connection, known))
        if self.is_rolled_back:
            logger.error("audit log is not the one that was exported", extra={"head_file": str(self._head_file)})

    def check(self) -> None:
        """Raises Unavailable: ``ledger_rolled_back``."""
        if self.is_rolled_back:
            raise Unavailable(
                "the database of this Domain is older than the head of its audit log that was exported, so what was spent "
                "since is missing from the privacy budgets, and no private job is run. Put the newer database back; or, to "
                f"accept the loss, remove {self._head_file.name} from the data folder and start the Domain again",
                code="ledger_rolled_back",
            )

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run ``fn`` under the lock of the audit log, durably; then export the head. Raises what `Database.write` raises.

        What was written is written, so a head that can't be exported is logged, and goes out with the next one.
        """

        def transaction(connection: sa.Connection) -> T:
            audit.lock(connection)
            return fn(connection)

        answer = await self._database.write(transaction)
        if self.is_rolled_back:
            return answer
        async with self._exporting:
            head = await self._database.read(audit.get_head)
            try:
                await asyncio.to_thread(audit.export_head, head, self._head_file)
            except (InvalidInput, OSError):
                logger.exception("audit head not exported", extra={"number": head.number})
        return answer
