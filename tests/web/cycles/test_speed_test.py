"""The speed test.

Should happen: a ping is answered at once; as many bytes come as were asked for; what is sent is forgotten.
Should not happen: more than the limit is sent or taken; a transfer is so fast that a browser cannot measure it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import httpx
import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.features.cycles.routes import SPEED_TEST_BYTES, SPEED_TEST_BYTES_PER_S
from pygrid.settings import DomainSettings
from pygrid.web.pacing import Pacer
from support.training import Site
from support.web import assert_problem, serving

PATH = "/model-centric/speed-test"
WHO = {"worker_id": "w", "random": "1"}


async def test_a_ping_is_answered_at_once(site: Site) -> None:
    answer = await site.web.get(PATH, params={**WHO, "is_ping": 1})
    assert (answer.status_code, answer.json()) == (200, {})


async def test_so_many_bytes_come(site: Site) -> None:
    for size in (0, 1, 100_000, 65_536):
        answer = await site.web.get(PATH, params={**WHO, "size_bytes": size})
        assert (answer.status_code, len(answer.content), answer.headers["content-length"]) == (200, size, str(size))


async def test_what_is_sent_is_forgotten(site: Site) -> None:
    answer = await site.web.post(PATH, params=WHO, content=b"x" * 1_000_000)
    assert (answer.status_code, answer.json()) == (200, {})


async def test_the_limit_holds_both_ways(site: Site) -> None:
    for size in (-1, SPEED_TEST_BYTES + 1, "many"):
        assert_problem(await site.web.get(PATH, params={**WHO, "size_bytes": size}), 400, "invalid_input")
    answer = await site.web.post(PATH, params=WHO, content=b"", headers={"Content-Length": str(10**12)})
    assert_problem(answer, 413, "payload_too_large")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 4_000_000

    assert_problem(await site.web.post(PATH, params=WHO, content=endless()), 413, "payload_too_large")


async def test_a_transfer_keeps_below_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 0.0, 0.0

    async def pause(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    monkeypatch.setattr("pygrid.web.pacing.asyncio.sleep", pause)
    pacer = Pacer(SPEED_TEST_BYTES_PER_S, lambda: now)
    for _ in range(1024):
        now += 0.0001
        await pacer.take(64 * 1024)
    assert now == pytest.approx(0.512, abs=0.01), "64 MiB at 1,000 Mbit/s"
    now += 10
    before = slept
    await pacer.take(64 * 1024)
    assert slept == before, "a slow peer is not slowed down"


async def test_both_directions_are_paced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    async def take(_pacer: Pacer, num_bytes: int) -> None:
        taken.append(num_bytes)

    monkeypatch.setattr(Pacer, "take", take)
    await site.web.get(PATH, params={**WHO, "size_bytes": 100_000})
    await site.web.post(PATH, params=WHO, content=b"x" * 100_000)
    assert sum(taken) >= 200_000


async def test_ten_speed_tests_in_a_row(settings: DomainSettings, clock: ManualClock) -> None:
    """As syft.js makes them, at the usual limits: pings, a download that ends early, an upload as a form."""
    app = build_domain(dataclasses.replace(settings, limit_loopback=True), clock=clock)
    async with serving(app) as (_, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:

        async def download() -> int:
            num_bytes = 0
            async with web.stream("GET", PATH, params={**WHO, "random": "0.12?0.34"}) as answer:
                if answer.status_code == 200:
                    assert answer.headers["content-length"] == str(SPEED_TEST_BYTES)
                    async for piece in answer.aiter_raw():
                        if (num_bytes := num_bytes + len(piece)) > 500_000:
                            break
                return answer.status_code

        for number in range(10):
            for _ in range(60 if number == 0 else 5):
                ping = await web.get(PATH, params={**WHO, "is_ping": 1})
                assert (ping.status_code, ping.content) == (200, b"{}")
            assert await download() == 200
            form = {"file": ("blob", b"x" * 500_000, "application/octet-stream")}
            sent = await web.post(PATH, params=WHO, files=form)
            assert (sent.status_code, sent.json()) == (200, {})
        assert [await download() for _ in range(11)] == [200] * 10 + [429]
        assert_problem(await web.post(PATH, params=WHO, content=b"x"), 429, "rate_limited")
        assert (await web.get(PATH, params={**WHO, "is_ping": 1})).status_code == 200, "pings go on"


async def test_both_names_are_needed(site: Site) -> None:
    for params in (
        {"worker_id": "w"},
        {"random": "1"},
        {"worker_id": "", "random": "1"},
        {"worker_id": "x" * 201, "random": "1"},
    ):
        assert_problem(await site.web.get(PATH, params=params), 400, "invalid_input")
        assert_problem(await site.web.post(PATH, params=params), 400, "invalid_input")
