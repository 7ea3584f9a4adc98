"""A Domain with its Owner; the gate of plans runs in this process, as it is not what is tested here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from litestar import Litestar
from training_support import Site, gate_in_process, running_site

from pygrid.clock import ManualClock
from pygrid.settings import DomainSettings


@pytest.fixture(autouse=True)
def quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygrid.features.processes.service.check_async", gate_in_process)


@pytest.fixture
async def site(domain: Litestar, clock: ManualClock, settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(domain, clock, settings.data_dir) as running:
        yield running
