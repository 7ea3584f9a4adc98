"""The partial sums of replicas: this one stores its sums of reports, and reads those of others when it closes a cycle.

They save work and are needed for nothing: a partial sum that is missing or damaged is made up for by the reports.
"""

from __future__ import annotations

import logging
import secrets
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from pygrid.aggregation import stored
from pygrid.aggregation.running import SumValues
from pygrid.core.closing import PartialSum, choose_summands
from pygrid.core.cycles import CycleState
from pygrid.errors import Unavailable
from pygrid.storage import cycles as rows
from pygrid.storage.blobs.objects import ObjectMissing, Objects
from pygrid.storage.partials import PartialRow, list_partials, put_partial
from pygrid.storage.sql.database import Database, instance_of
from pygrid.storage.sql.lanes import Lane

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartialLimits:
    """When a sum is stored."""

    min_bytes: int = 64 * 1024 * 1024
    """Bytes of the reports that were folded since it was stored last."""
    min_share: int = 4
    """The same, as a multiple of the bytes of the sum."""
    num_last: int = 4
    """Reports left until the cycle closes, from which a sum is stored after reports of its own bytes."""
    min_last_bytes: int = 8 * 1024 * 1024
    """Smallest bytes of these reports."""
    max_bytes: int = 128 * 1024 * 1024
    """Larger sums are not stored, because a copy of them is in memory meanwhile."""

    def are_reached(self, num_bytes: int, sum_bytes: int, num_left: int | None) -> bool:
        """Whether a sum is worth storing.

        Args:
            num_bytes: of the reports that were folded since it was stored last.
            num_left: reports until the cycle closes; None: it does not close after a number of reports.
        """
        least = max(self.min_bytes, self.min_share * sum_bytes)
        if num_left is not None and num_left <= self.num_last:
            least = min(least, max(self.min_last_bytes, sum_bytes))
        return num_bytes >= least and sum_bytes <= self.max_bytes


@dataclass(frozen=True)
class FoundSums:
    """What a total consists of, in addition to the own sum."""

    rows: list[PartialRow]
    """The sums of others."""
    read: frozenset[int]
    """Ids of the reports that none of them covers."""


class PartialSums:
    def __init__(self, database: Database, objects: Objects, limits: PartialLimits | None = None) -> None:
        self._database, self._objects = database, objects
        self._limits = limits or PartialLimits()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="partial-sums")
        self._storing: Future[None] | None = None

    def is_due(self, num_bytes: int, sum_bytes: int, num_left: int | None) -> bool:
        """Whether a sum is worth storing now (see `PartialLimits`), and nothing is being stored."""
        is_free = self._storing is None or self._storing.done()
        return is_free and self._limits.are_reached(num_bytes, sum_bytes, num_left)

    def put_soon(self, cycle_id: int, values: SumValues) -> None:
        """Store the sum of all reports that this replica has folded, in a thread."""
        self._storing = self._thread.submit(self._put, cycle_id, values)

    def find(self, cycle_id: int, accepted: Collection[int], folded: Collection[int]) -> FoundSums:
        """The sums of others that go together with the own one, and what is left to read; see `choose_summands`."""
        stored_rows = self._database.read_now(lambda connection: list_partials(connection, cycle_id))
        by_key = {row.key: row for row in stored_rows}
        partials = [
            PartialSum(row.cycle_id, row.instance, row.key, frozenset(stored.unpack(row.covered)))
            for row in stored_rows
        ]
        summands = choose_summands(accepted, folded, partials)
        for unusable in summands.unusable:
            logger.warning("partial sum does not fit; not used", extra={"key": unusable.key})
        return FoundSums([by_key[partial.key] for partial in summands.partials], frozenset(summands.read))

    def load(self, found: FoundSums) -> Iterator[SumValues]:
        """Yield the sums of others that can be read."""
        for row in found.rows:
            values = self._read(row)
            if values is not None:
                yield values

    def close(self) -> None:
        """End the thread. Nobody waits for a sum that is being stored."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, row: PartialRow) -> SumValues | None:
        try:
            data = self._objects.read(row.key)
            if _fingerprint(data) != row.fingerprint:
                raise stored.StoredSumError("its bytes have changed")
            return stored.decode(data, row.covered)
        except (ObjectMissing, stored.StoredSumError, Unavailable) as error:
            logger.warning("partial sum not read; its reports are", extra={"key": row.key, "reason": str(error)})
            return None

    def _put(self, cycle_id: int, values: SumValues) -> None:
        covered = stored.pack(values.covered)
        data = stored.encode(values, covered)
        # Below the reports of the cycle, and deleted with them. A name is used once: a row never names other bytes.
        key = f"diffs/{cycle_id}/{secrets.token_hex(16)}.sum"
        try:
            self._objects.put(key, data)
        except Unavailable:
            logger.warning("partial sum not stored", extra={"cycle_id": cycle_id}, exc_info=True)
            return
        self._database.write_later(_put_row(cycle_id, key, _fingerprint(data), covered), Lane.REPORTS, is_alone=True)


def _put_row(cycle_id: int, key: str, fingerprint: str, covered: bytes) -> Callable[[sa.Connection], None]:
    def transaction(connection: sa.Connection) -> None:
        if rows.lock_cycle(connection, cycle_id).state is not CycleState.COMPLETED:
            put_partial(connection, PartialRow(cycle_id, instance_of(connection), key, fingerprint, covered))

    return transaction


def _fingerprint(data: bytes) -> str:
    return f"{len(data):x}-{zlib.crc32(data):08x}"
