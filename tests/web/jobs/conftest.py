from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pygrid.features.datasets import conversion
from pygrid.settings import DomainSettings
from support.jobs import Site, running_site
from support.training import gate_in_process


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and plans are checked in this process; the children have tests of their own. Workers are real."""
    monkeypatch.setattr(conversion, "convert_in_child", lambda asked, _stop: conversion.convert(asked))
    monkeypatch.setattr("pygrid.features.jobs.checks.check_async", gate_in_process)


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as running:
        yield running
