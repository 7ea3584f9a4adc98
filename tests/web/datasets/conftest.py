from pathlib import Path

import httpx
import pytest

from pygrid.features.datasets import conversion
from pygrid.settings import DomainSettings
from support.datasets import Owner
from support.web import People


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process; the child has tests of its own."""
    monkeypatch.setattr(conversion, "convert_in_child", lambda asked, _stop: conversion.convert(asked))


@pytest.fixture
def data_dir(settings: DomainSettings) -> Path:
    return settings.data_dir


@pytest.fixture
async def owner(web: httpx.AsyncClient, people: People, data_dir: Path) -> Owner:
    """The Owner of the Domain."""
    return Owner(web, await people.owner(), data_dir)


@pytest.fixture
async def admin(owner: Owner, people: People, data_dir: Path) -> Owner:
    """Another who may upload, without being Owner."""
    return Owner(owner.web, await people.with_role(3, owner.headers, "admin@example.org"), data_dir)


@pytest.fixture
async def scientist(owner: Owner, people: People) -> dict[str, str]:
    """The headers of somebody with an account and no more."""
    return await people.with_role(1, owner.headers, "scientist@example.org")
