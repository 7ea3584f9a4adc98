"""The real Domain in process: migrations, SQLite in a temporary folder, a clock that the test holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings, load_settings
from support import warm_processes
from support.web import People, running


@pytest.fixture(scope="session", autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    warm_processes.end_all()


@pytest.fixture(autouse=True)
def _kept_fork_servers() -> Iterator[None]:
    with warm_processes.kept_fork_servers():
        yield


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path) -> DomainSettings:
    return load_settings({}, data_dir=tmp_path / "data", id="test")


@pytest.fixture
def domain(settings: DomainSettings, clock: ManualClock) -> Litestar:
    return build_domain(settings, clock=clock)


@pytest.fixture
async def web(domain: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a Domain that runs, without credentials."""
    async with running(domain) as client:
        yield client


@pytest.fixture
def people(web: httpx.AsyncClient) -> People:
    return People(web)
