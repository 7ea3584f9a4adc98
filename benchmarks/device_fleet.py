"""Devices that report marks through the balancer of a cluster, and come back when a replica is away."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import crash
from loadgen import Address, Device, Process, RequestFailed
from replicas import AWAY

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Longest time of one step, for a connection that nobody answers."""
REPEAT_S = 0.3
TRAIN_S = 0.15
"""Between the download of the model and the report. Without it, devices take the processor from the replicas."""


class PatientReporter(crash.Reporter):
    """A device that asks to join, downloads the model and reports; it repeats what failed, as the SDKs do.

    Args:
        repeated: counts the requests that it had to repeat, by their status; 0: the connection broke.
    """

    def __init__(
        self,
        address: Address,
        process: Process,
        marks: crash.Marks,
        stop: asyncio.Event,
        repeated: Counter[int] | None = None,
    ) -> None:
        super().__init__(address, process, marks, marks.size, stop)
        self._repeated = Counter() if repeated is None else repeated

    async def _connected(self) -> Device:
        async with self._patience(), asyncio.timeout(PATIENCE_S):
            return await super()._connected()

    async def _step(self, device: Device) -> None:
        async with self._patience(), asyncio.timeout(PATIENCE_S):
            await super()._step(device)

    async def _prepare(self, device: Device, acceptance: dict[str, Any]) -> None:
        try:
            await device.download(acceptance)
        except RequestFailed as failure:
            if failure.status != crash.GONE:  # the cycle is over; the report is refused, too
                raise
        await asyncio.sleep(TRAIN_S)  # what a device computes

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            yield
        except RequestFailed as failure:
            logger.info("request repeated: %s", failure)
            self._repeated[failure.status] += 1
            if failure.status not in AWAY:
                raise
            await asyncio.sleep(REPEAT_S)  # the pause of a device
            raise ConnectionError(str(failure)) from failure
        except OSError as failure:  # a timeout is one, too
            logger.info("request repeated: %r", failure)
            self._repeated[0] += 1
            raise
