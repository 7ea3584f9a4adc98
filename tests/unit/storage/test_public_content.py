"""Listeners of public content: each gets the version of each change, and one that fails stops nothing."""

from __future__ import annotations

import pytest

from pygrid.storage.public_content import PublicContent


async def test_each_listener_gets_each_version_before_changed_returns(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def fail(_version: str) -> None:
        raise OSError("gone")

    async def listen(version: str) -> None:
        told.append(version)

    public = PublicContent(fail, listen)
    seen = [public.version]
    for _ in range(2):
        await public.changed()
        seen.append(public.version)
    assert told == seen[1:]
    assert len(set(seen)) == 3
    assert "public change not announced" in caplog.text
