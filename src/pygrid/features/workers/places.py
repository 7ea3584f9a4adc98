"""Where jobs run: on this machine, or on Workers of other machines that ask for them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pygrid.core.job_spec import JobResult, JobSpec
from pygrid.errors import Unavailable
from pygrid.features.workers.answers import OnProgress
from pygrid.features.workers.driver import SubprocessDriver
from pygrid.features.workers.remote import RemoteDriver

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """The drivers of a Domain as one."""

    here: SubprocessDriver
    elsewhere: RemoteDriver
    prefer_remote: bool = False
    """Jobs that may go elsewhere do so while this machine has room."""

    @property
    def num_remote(self) -> int:
        """How many jobs can run elsewhere at once, now."""
        return self.elsewhere.num_places

    async def start(self) -> object:
        """Have a Worker ready here, where jobs are tried first. Raises Unavailable."""
        return await self.here.start()

    async def run(
        self, spec: JobSpec, on_progress: OnProgress | None = None, *, pad: bool = True, remote: bool = False
    ) -> JobResult:
        """Run a job, elsewhere if it is ``remote``; here all the same if it did not begin there. Raises as a driver does."""
        if remote:
            try:
                return await self.elsewhere.run(spec, on_progress, pad=pad)
            except Unavailable as error:
                logger.info("job runs here", extra={"job_id": spec.id, "detail": error.detail})
        return await self.here.run(spec, on_progress, pad=pad)

    async def close(self) -> None:
        """End every job."""
        await self.elsewhere.close()
        await self.here.close()
