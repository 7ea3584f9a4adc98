"""Lists of the console: pages by keyset, the same rows as CSV and JSON, and lists that follow what happens.

Should happen: every row of a list is on exactly one page; a file has the rows of its page.
Should not happen: a cell that a spreadsheet takes for a formula; rows of others in a file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid import codes
from pygrid.clock import SystemClock
from pygrid.errors import Conflict
from pygrid.settings import DomainSettings
from pygrid.storage import audit
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.jobs import jobs
from pygrid.storage.signals import LocalSignals, people_topic
from pygrid.storage.store import Store
from pygrid.web.services import service
from support.console import Browser, Page
from support.eventually import eventually
from support.jobs import MODEL, Site, running_site
from support.streams import Stream, events_of
from support.training import config, form

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str) -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


async def copy_job(site: Site, job_id: str, num_rows: int) -> None:
    """Add copies of a job, in the order of their ids, until there are so many."""

    def write(connection: sa.Connection) -> None:
        row = dict(connection.execute(jobs.select().where(jobs.c.id == job_id)).mappings().one())
        copies = [row | {"number": row["number"] + n, "id": f"{n:032x}"} for n in range(1, num_rows)]
        connection.execute(jobs.insert(), copies)

    await service(site.app.state, Store).database.write(write)


async def ids_of(who: Browser, path: str) -> list[list[str]]:
    """The ids of the jobs on each page of a list."""
    pages = []
    while path:
        page = await who.page(path)
        links = [one["href"] for one in page.find("a") if one["href"].startswith("/admin/jobs/")]
        pages.append([link.rpartition("/")[2] for link in links])
        path = next((one["href"] for one in page.find("a", rel="next")), "")
    return pages


def joined(pages: list[list[str]]) -> list[str]:
    return [one for page in pages for one in page]


async def test_every_job_is_on_one_page_and_the_queue_begins_with_the_oldest(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await site.scientist.submit(dataset, "statistics", reason="=cmd|calc", **COUNT)
    await site.owner.wait(job["id"], "waiting")
    await copy_job(site, job["id"], 250)
    expected = [job["id"], *(f"{n:032x}" for n in range(1, 250))]
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    queue = await ids_of(ann, "/admin/requests")
    assert [len(page) for page in queue] == [100, 100, 50]
    assert joined(queue) == expected
    mine = await ids_of(bob, "/admin/jobs?state=waiting")
    assert joined(mine) == expected[::-1]
    assert await ids_of(ann, "/admin/jobs") == [[]]
    assert joined(await ids_of(ann, "/admin/jobs?whose=all")) == expected[::-1]
    assert await ids_of(bob, "/admin/jobs?whose=all&state=released") == [[]]
    dora = await browser(site, "stranger")
    assert await ids_of(dora, "/admin/jobs?whose=all") == [[]], "a User sees their own jobs only"


async def test_a_list_is_also_a_file(site: Site) -> None:
    dataset = await site.owner.upload(name='=1+1,"x"')
    job = await site.scientist.submit(dataset, "statistics", **COUNT)
    await site.owner.wait(job["id"], "waiting")
    ann = await browser(site, "owner")
    for path in ("/admin/jobs?whose=all", "/admin/requests", "/admin/datasets", "/admin/people", "/admin/audit"):
        page = await ann.page(path)
        links = [one["href"] for one in page.find("a") if "download" in one]
        assert len(links) == 2, path
        table, data = await ann.get(links[0]), await ann.get(links[1])
        for answer in (table, data):
            assert answer.headers["content-disposition"].startswith("attachment")
            assert "sandbox" in answer.headers["content-security-policy"]
            assert answer.headers["cache-control"] == "no-store"
        rows = list(csv.DictReader(io.StringIO(table.text)))
        found = data.json()
        assert len(rows) == len(found) >= 1, path
        assert list(rows[0]) == list(found[0])
        assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))], path
    datasets = (await ann.get("/admin/datasets?format=json")).json()
    assert datasets[0]["name"] == '=1+1,"x"'
    (row,) = csv.DictReader(io.StringIO((await ann.get("/admin/datasets?format=csv")).text))
    assert row["name"] == '\'=1+1,"x"'
    refused = await ann.get("/admin/jobs?format=xml")
    assert (refused.status_code, "use csv or json" in Page.read(refused).text) == (400, True)
    assert (await (await browser(site, "stranger")).get("/admin/jobs?format=json&whose=all")).json() == []
    assert (await (await browser(site, "stranger")).get("/admin/audit?format=csv")).status_code == 403


async def test_lists_follow_what_happens(site: Site) -> None:
    ann = await browser(site, "owner")
    stream = Stream(site.app, "/admin/live?topics=processes,queue", {"cookie": ann.cookie})
    await eventually(lambda: b"open" in stream.received)
    hosted = await site.owner.call("POST", "/model-centric/host-training", files=form(config("m"), MODEL))
    assert hosted.status_code in (200, 201), hosted.text
    await eventually(lambda: "processes" in [one["topic"] for one in events_of(stream, "changed")])
    assert (await ann.page("/admin/processes")).find("section", **{"data-topic": "processes"})


async def test_lists_of_people_datasets_and_entries_follow_what_happens(site: Site) -> None:
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    topics = "/admin/live?topics=audit,datasets,people"
    hers = Stream(site.app, topics, {"cookie": ann.cookie})
    his = Stream(site.app, topics, {"cookie": bob.cookie})
    await eventually(lambda: b"open" in hers.received and b"open" in his.received)

    def seen(stream: Stream) -> list[str]:
        return [one["topic"] for one in events_of(stream, "changed")]

    assert (await ann.post("/admin/people/invite", {"email": "new@example.org", "role": "1"})).status_code == 200
    await eventually(lambda: {"people", "audit"} <= set(seen(hers)))
    assert "datasets" not in seen(hers)
    dataset = await site.owner.upload()
    await eventually(lambda: "datasets" in seen(hers))
    await eventually(lambda: "datasets" in seen(his))
    before = len(seen(his))
    await site.owner.set_policy(dataset)
    await eventually(lambda: seen(hers).count("datasets") == 2)
    edited = {"name": "points", "description": "new", "visibility": "listed"}
    assert (await ann.post(f"/admin/datasets/{dataset}/edit", edited)).status_code == 303
    await eventually(lambda: len(seen(his)) > before)
    assert seen(his).count("datasets") == 2, "the budget of another is not shown to him"
    assert set(seen(his)) == {"datasets"}, "he may see neither people nor the log"
    # A page that a form has made fetches its parts where the list is.
    page = Page.read(await ann.post("/admin/audit/verify"))
    (rows,) = page.find("section", **{"data-topic": "audit"})
    assert rows["data-source"] == "/admin/audit"
    people = (await ann.page("/admin/people")).find("section", **{"data-topic": "people"})
    assert [(one["data-part"], "data-source" in one) for one in people] == [("invitations", False), ("rows", False)]


async def test_a_write_that_is_undone_notifies_nobody(site: Site, tmp_path: Path) -> None:
    database, signals = service(site.app.state, Store).database, LocalSignals()
    writes = AuditedWrites(database, tmp_path / "head.json", signals=signals)
    woken = signals.next(people_topic())

    def fail(connection: sa.Connection) -> None:
        audit.append(connection, "user_invited", {}, actor=None, now=SystemClock().now())
        raise Conflict("no", code=codes.CONFLICT)

    with pytest.raises(Conflict):
        await writes.write(fail)
    await writes.write(lambda _connection: None)
    assert not woken.done()
