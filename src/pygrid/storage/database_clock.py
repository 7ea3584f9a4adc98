"""The clock of replicas: that of their database, because the clocks of their machines differ.

    database's time, every 10 s ──> difference from this machine's monotonic clock ──> `now`

So replicas agree on deadlines, and a machine whose clock is wrong or jumps closes no cycle too early. Between two
looks, and while the database is away, only the monotonic clock counts.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from pygrid.clock import Clock, SystemClock, elapsed_s
from pygrid.errors import PygridError
from pygrid.lifecycle import BackgroundTask
from pygrid.storage.sql.database import Database

logger = logging.getLogger(__name__)

LOOK_S = 10.0
MAX_ANSWER_S = 1.0
"""An answer that takes longer says too little about the time."""
SKEW_S = 5.0
"""A larger difference of this machine's clock is logged. Signatures of requests to a bucket need its clock."""
_TIME = sa.text("SELECT clock_timestamp()")


class DatabaseClock(SystemClock):
    """A `Clock` with the time of a PostgreSQL database. It never jumps or runs backwards; see `SystemClock`.

    Args:
        machine_s: the clock of this machine, in seconds.
        elapsed_s: its monotonic clock, in seconds.
    Raises:
        Unavailable: the database does not answer.
    """

    def __init__(
        self, database: Database, machine_s: Callable[[], float] = time.time, elapsed_s: Callable[[], float] = elapsed_s
    ) -> None:
        self._database, self._machine_s, self._elapsed_s = database, machine_s, elapsed_s
        self._ahead_s: float | None = None
        """The time of the database minus that of the monotonic clock."""
        self._is_skewed = False
        self.look()
        super().__init__(self._database_s, elapsed_s)

    def look(self) -> None:
        """Compare the clocks. Blocks. Raises Unavailable: the database does not answer."""
        sent_s = self._elapsed_s()
        at: dt.datetime = self._database.read_now(lambda connection: connection.execute(_TIME).scalar_one())
        came_s = self._elapsed_s()
        if self._ahead_s is None or came_s - sent_s <= MAX_ANSWER_S:
            self._ahead_s = at.timestamp() - (sent_s + came_s) / 2
        skew_s = self._machine_s() - self._database_s()
        if abs(skew_s) > SKEW_S and not self._is_skewed:
            logger.warning("machine's clock differs from the database's", extra={"by_s": round(skew_s, 3)})
        self._is_skewed = abs(skew_s) > SKEW_S

    async def follow(self) -> None:
        """Compare the clocks again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await asyncio.to_thread(self.look)
            except PygridError:
                logger.info("database does not answer; its time was not read")

    def _database_s(self) -> float:
        assert self._ahead_s is not None
        return self._elapsed_s() + self._ahead_s


def choose_clock(
    given: Clock | None, database: Database, *, is_replicated: bool
) -> tuple[Clock, tuple[BackgroundTask, ...]]:
    """The clock of an app, and what keeps it right: that of the database for replicas, else that of the machine.

    Args:
        given: another clock, of a test.
    Raises:
        Unavailable: the database does not answer.
    """
    if given is not None or not is_replicated:
        return given or SystemClock(), ()
    clock = DatabaseClock(database)
    return clock, (BackgroundTask("follow-clock", clock.follow),)
