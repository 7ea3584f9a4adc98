"""Limits of one session at the console: event streams at once, and pages per second.

Should happen: the ninth stream and a flood of pages are refused with words and a time; others go on.
Should not happen: a stream that counts after it was closed; a refusal of another session.
"""

from __future__ import annotations

import httpx

from pygrid.ui.session_limits import MAX_STREAMS, PAGES_AT_ONCE, SessionLimits
from pygrid.web.services import service
from support.console import Browser, Page
from support.eventually import eventually
from support.streams import Stream
from support.training import Site
from support.web import People

PATH = "/admin/live?topics=processes"


async def stream(site: Site, who: Browser) -> Stream:
    found = Stream(site.app, PATH, {"cookie": who.cookie})
    await eventually(lambda: b": open" in found.received)
    return found


async def test_the_ninth_stream_of_a_session_is_refused(site: Site) -> None:
    ann, again = [await Browser(site.web).sign_in("owner@example.org") for _ in range(2)]
    streams = [await stream(site, ann) for _ in range(MAX_STREAMS)]
    refused = await ann.get(PATH, headers={"HX-Request": "true"})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert "too_many_streams" in refused.text
    assert "this session has 8 pages open that update themselves" in Page.read(refused).text
    assert (await ann.get("/admin/processes")).status_code == 200
    other = await stream(site, again)
    await streams.pop().close()
    streams.append(await stream(site, ann))
    assert (await ann.get(PATH)).status_code == 429
    for one in (*streams, other):
        await one.close()
    await (await stream(site, ann)).close()


async def test_of_streams_that_begin_together_eight_stay_open(site: Site) -> None:
    ann = await Browser(site.web).sign_in("owner@example.org")
    streams = [Stream(site.app, PATH, {"cookie": ann.cookie}) for _ in range(3 * MAX_STREAMS)]
    await eventually(lambda: sum(not one.is_open for one in streams) == 2 * MAX_STREAMS)
    open_ones = [one for one in streams if one.is_open]
    await eventually(lambda: all(b": open" in one.received for one in open_ones))
    for one in open_ones:
        await one.close()


async def test_a_flood_of_pages_of_a_session_is_refused(site: Site) -> None:
    ann = await Browser(site.web).sign_in("owner@example.org")
    await People(site.web).with_role(1, site.owner, "bob@example.org")
    bob = await Browser(site.web).sign_in("bob@example.org")
    limits = service(site.app.state, SessionLimits)
    for _ in range(PAGES_AT_ONCE):
        limits.pages.take(ann.cookie.partition("=")[2])

    async def check_refusal(answer: httpx.Response) -> None:
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "this session opens more than 20 pages a second: wait a few seconds" in Page.read(answer).text

    await check_refusal(await ann.get("/admin/"))
    await check_refusal(await ann.post("/admin/logout"))
    await check_refusal(await ann.get("/admin/login"))
    assert (await bob.get("/admin/")).status_code == 200
    site.clock.advance(1)
    assert (await ann.get("/admin/")).status_code == 200
