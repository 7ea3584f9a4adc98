"""The web console in Chromium: how long a change takes to reach the screen, and how smoothly long lists scroll.

Parts of admin.py.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from playwright.async_api import Page, async_playwright

from figure import Figure
from loadgen import Address, Connection, Device, Process

FLAGS = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
NUM_CHANGES = 40
PAUSE_S = 0.4
"""Before each change, so that it is one event: a device trains before it reports."""
Act = Callable[[], Awaitable[object]]
MAX_ROWS = 2000
SCROLL_S = 3.0
_WATCH = """(selector) => {
  window.seen = [];
  const text = () => [...document.querySelectorAll(selector)].map((one) => one.textContent).join("|");
  let before = text();
  new MutationObserver(() => {
    const now = text();
    if (now === before) return;
    before = now;
    window.seen.push(performance.timeOrigin + performance.now());
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""
_SCROLL = """async (seconds) => {
  const began = performance.now();
  let frames = 0;
  while (performance.now() - began < seconds * 1000) {
    await new Promise(requestAnimationFrame);
    window.scrollBy(0, (frames += 1) % 200 < 100 ? 40 : -40);
  }
  return frames / ((performance.now() - began) / 1000);
}"""


@asynccontextmanager
async def open_page(address: Address, cookie: str) -> AsyncIterator[Page]:
    """A page of Chromium with the cookie of a session."""
    program = os.environ.get("PYGRID_CHROMIUM") or shutil.which("chromium")
    name, _, value = cookie.partition("=")
    async with async_playwright() as playwright:
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = await playwright.chromium.launch(executable_path=program, args=flags)
        origin = f"http://127.0.0.1:{address[1]}"
        context = await browser.new_context(base_url=origin)
        await context.add_cookies([{"name": name, "value": value, "domain": "127.0.0.1", "path": "/admin"}])
        yield await context.new_page()
        await browser.close()


async def _delays(page: Page, path: str, selector: str, prepare: Callable[[], Awaitable[Act]]) -> list[float]:
    """Milliseconds from the answer to each change until the text of the page is another one.

    Args:
        prepare: returns the next change.
    """
    await page.goto(path)
    await page.get_by_role("status").get_by_text("Live").wait_for()
    await page.evaluate(_WATCH, selector)
    delays = []
    for number in range(NUM_CHANGES + 5):
        act = await prepare()
        await asyncio.sleep(PAUSE_S)
        await act()
        answered_ms = time.time() * 1000
        while len(await page.evaluate("window.seen")) <= number:
            if time.time() * 1000 - answered_ms > 20_000:
                raise RuntimeError(f"{path}: change {number} is not on the page")
            await asyncio.sleep(0.02)
        delays.append((await page.evaluate("window.seen"))[number] - answered_ms)
    return sorted(delays[5:])


def _delay_figure(what: str, delays: list[float]) -> Figure:
    note = f"median {statistics.median(delays):.0f} ms; negative: before the answer to the caller"
    return Figure(what, delays[math.ceil(0.95 * len(delays)) - 1], "ms", 100.0, note=note)


async def measure_delays(address: Address, cookie: str, token: str, process: Process, diff: bytes) -> list[Figure]:
    """Delays of a report on the page of its training, and of a change on a list, behind the answer to the caller."""
    device = Device(await Connection.open(address), process)

    async def join() -> Act:
        await device.authenticate()
        key = (await device.join())["request_key"]
        return lambda: device.report(key, diff)

    acts = iter(("pause", "resume") * NUM_CHANGES)

    async def choose() -> Act:
        path = f"/model-centric/processes/{process.id}/{next(acts)}"
        return lambda: switch(path)

    async def switch(path: str) -> None:
        caller = await Connection.open(address)
        answer = await caller.request("POST", path, bearer=token)
        caller.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: status {answer.status}")

    async with open_page(address, cookie) as page:
        reports = await _delays(page, f"/admin/processes/{process.id}", "strong[data-field=reported]", join)
        states = await _delays(page, "/admin/processes", "#rows .badge", choose)
    return [
        _delay_figure("a report to its number on the screen, 95%", reports),
        _delay_figure("a change of a process to its word in the list, 95%", states),
    ]


async def measure_scrolling(address: Address, cookie: str) -> list[Figure]:
    """Frames per second while a list of 2,000 rows scrolls, beside one of 100 rows."""
    async with open_page(address, cookie) as page:
        await page.goto("/admin/processes")
        await page.locator("#rows tbody tr").first.wait_for()
        short = await page.evaluate(_SCROLL, SCROLL_S)
        while (num_rows := await page.locator("#rows tbody tr").count()) < MAX_ROWS:
            await page.evaluate("scrollTo(0, document.body.scrollHeight)")
            await page.locator("#rows tbody tr").nth(num_rows).wait_for(state="attached")
        await page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
        long = await page.evaluate(_SCROLL, SCROLL_S)
    note = f"{short:.0f} at the first 100 rows"
    return [Figure(f"scrolling, {num_rows:,} rows in the page", long, "frames/s", 55.0, at_least=True, note=note)]
