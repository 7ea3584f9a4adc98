"""The published syft.js 0.1.4 in headless Chromium, on a page of another origin.

Should happen: it trains as in Node; its speed test measures both directions, ten times in a row; the example page
trains and reports. Should not happen: a browser on a fast link counts as too slow; a slow one is admitted.
"""

# ruff: noqa: F811 - fixtures
from __future__ import annotations

from pathlib import Path

import pytest

from support.published_site import PublishedSite, Subject, cnn, mlp, site  # noqa: F401 - fixtures
from support.syftjs import needs_node, task
from support.syftjs.chromium import open_page
from support.thorough import THOROUGH

pytestmark = [pytest.mark.browser, pytest.mark.slow]
EXAMPLE = Path(__file__).parents[2] / "examples" / "browser" / "index.html"


async def test_browsers_train(site: PublishedSite, mlp: Subject, cnn: Subject) -> None:
    async with open_page(needs_node()) as page:
        await site.check_two(mlp, "over http", page.run)
        await site.check_two(mlp, "over a websocket", page.run, "ws")
        await site.check_two(cnn, "images", page.run)


async def test_speed_tests_in_a_row(site: PublishedSite, mlp: Subject) -> None:
    """Two in a usual run, ten in a thorough one: the client takes most of a minute for each."""
    floors = {"minimum_upload_speed": 1, "minimum_download_speed": 1}
    # One cycle for all clients: one that is admitted in the last moment of a cycle cannot download.
    process = await site.host(mlp, "fast", max_diffs=20, cycle_length=3600, **floors)
    beyond = await site.host(mlp, "too fast", minimum_upload_speed=5000)
    async with open_page(needs_node()) as page:
        for number in range(10 if THOROUGH else 2):
            (found,) = await page.run([task(site.url, process, [])])
            assert found["events"] == ["accepted", "reported"], (number, found)
        (refused,) = await page.run([task(site.url, beyond, [])])
        assert (refused["events"], refused["timeout"] > 0) == (["rejected"], True)


async def test_the_example_page(site: PublishedSite, mlp: Subject) -> None:
    process = await site.host(mlp, "digits", max_diffs=1)
    async with open_page(needs_node(), "/browser", EXAMPLE.read_text()) as opened:
        page = opened.page
        await page.fill("#url", site.url)
        await page.click("#start")
        await page.get_by_text("Reported.").wait_for()
        assert "update 10: loss" in await page.inner_text("#log")
    await site.checkpoint(process, 2)
