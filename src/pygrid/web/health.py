"""Routes for monitoring: whether the process answers, whether the app is ready, and its metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, Router, get
from litestar.datastructures import State
from sqlalchemy.exc import SQLAlchemyError

from pygrid import codes
from pygrid.core.addresses import parse_address
from pygrid.errors import Forbidden, NotFound, PygridError, Unavailable
from pygrid.metrics import Metrics
from pygrid.settings import AppSettings, read_networks
from pygrid.web.problems import describe_problems
from pygrid.web.services import service

logger = logging.getLogger(__name__)

MIN_FREE_BYTES = 32 * 1024 * 1024
"""An app with less free space on the disk of its data folder is not ready."""
PROBE_FILE = ".readiness-probe"
_PROBE_BYTES = 4096
_FORWARDING = ("forwarded", "via", "x-forwarded-for")
"""Headers that a proxy adds."""


class Health(msgspec.Struct):
    status: str


class Readiness:
    """Checks that the database and the disk of the data folder work.

    Args:
        read: runs a query in the database.
        check_store: raises Unavailable if the store of files does not answer; blocks; None: there is no store.
    """

    def __init__(
        self,
        read: Callable[[Callable[[sa.Connection], Any]], Awaitable[Any]],
        folder: Path,
        check_store: Callable[[], None] | None = None,
    ) -> None:
        self._read = read
        self._folder = folder
        self._check_store = check_store

    async def check(self) -> None:
        """Raises Unavailable: ``database_unavailable``, ``disk_full``, ``storage_failed``."""
        try:
            await self._read(lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one())
        except (SQLAlchemyError, PygridError) as error:
            logger.warning("database does not answer", extra={"error": type(error).__name__})
            raise Unavailable("the database does not answer", code=codes.DATABASE_UNAVAILABLE) from error
        if trouble := await asyncio.to_thread(find_disk_trouble, self._folder):
            raise Unavailable(trouble, code=codes.DISK_FULL)
        if self._check_store is not None:
            await asyncio.to_thread(self._check_store)


@get("/healthz", sync_to_thread=False)
def healthz() -> Health:
    """Answer, to show that the process runs."""
    return Health("ok")


DRAINING_HEADER = "pygrid-draining"
"""Set by a balancer to 404, the status by which it knows a server that ends its requests and gets no new ones."""


@get("/readyz", responses=describe_problems(503))
async def readyz(state: State, request: Request[Any, Any, Any]) -> Health:
    """Check the database, the disk and the background tasks; 503 names what fails."""
    if state.stopping.is_set() or state.stopping.is_draining:
        if request.headers.get(DRAINING_HEADER) == "404":
            raise NotFound("the app is stopping", code=codes.SHUTTING_DOWN)
        raise Unavailable("the app is stopping", code=codes.SHUTTING_DOWN)
    await service(state, Readiness).check()
    if failing := state.tasks.failing:
        raise Unavailable(f"background tasks fail: {', '.join(failing)}", code=codes.TASKS_FAILING, tasks=failing)
    return Health("ready")


def find_disk_trouble(folder: Path) -> str:
    """Return why the data folder cannot store more; empty if it can. Writes and removes a small file."""
    if (free := shutil.disk_usage(folder).free) < MIN_FREE_BYTES:
        return f"the disk of the data folder has {free:,} bytes free; the app needs {MIN_FREE_BYTES:,}"
    probe = folder / PROBE_FILE
    try:
        # Free space does not show a quota.
        with probe.open("wb", buffering=0) as file:
            file.write(b"0" * _PROBE_BYTES)
            os.fdatasync(file.fileno())
        probe.unlink()
    except OSError as error:
        return f"the data folder cannot be written to: {error.strerror}"
    return ""


@get("/metrics", include_in_schema=False, sync_to_thread=False)
def metrics(state: State, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return all metrics in the text format of Prometheus.

    They reveal how large private datasets are, and how long private jobs take.

    Raises:
        Forbidden: ``not_permitted``: the caller is not one of ``metrics_from``, or came through a proxy.
    """
    address = parse_address(request.client.host) if request.client else None
    readers = read_networks(service(state, AppSettings).metrics_from)
    is_direct = not any(header in request.headers for header in _FORWARDING)
    if address is None or not is_direct or not any(address in network for network in readers):
        raise Forbidden(
            "the metrics are for your own monitoring: name its address in PYGRID_METRICS_FROM, and read them "
            "without a proxy",
            code=codes.NOT_PERMITTED,
        )
    counted: Metrics = state.metrics
    return Response(counted.render(), media_type=Metrics.CONTENT_TYPE)


def health_routes() -> list[Any]:
    return [Router("/", route_handlers=[healthz, readyz, metrics], tags=["health"])]
