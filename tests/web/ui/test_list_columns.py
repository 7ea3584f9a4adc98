"""What lists tell of owners, waiting requests, jobs and spent epsilon, and to whom.

Should happen: figures that are those of the requests which a person may see; the same columns in files; a list of 100
rows takes as many statements as a list of one.
Should not happen: an e-mail, or a count of the jobs of others, for a person who may not see them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.core.access import DOMAIN_PERMISSIONS
from pygrid.settings import DomainSettings
from pygrid.storage.accounts import users
from pygrid.storage.datasets import dataset_versions, datasets
from pygrid.storage.jobs import jobs
from pygrid.storage.store import Store
from pygrid.web.services import service
from support.console import Browser, noted_statements
from support.eventually import eventually
from support.jobs import MODEL, Person, Site, running_site
from support.streams import Stream, events_of
from support.training import config, form

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}
MAX_STATEMENTS = 15


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str) -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


async def rows_of(who: Browser, path: str) -> dict[str, dict[str, Any]]:
    """The rows of a list as a file, by name or e-mail; the page has each of their owners."""
    page, rows = await who.page(path), (await who.get(f"{path}?format=json")).json()
    assert all(str(row.get("owner") or "") in page.text for row in rows)
    return {row.get("name") or row["email"]: row for row in rows}


async def with_permissions(site: Site, name: str, *wanted: str) -> Person:
    """A person with a role of these permissions."""
    flags = {str(permission): str(permission) in wanted for permission in DOMAIN_PERMISSIONS}
    role = (await site.owner.call("POST", "/roles", json={"name": name, **flags})).json()["role"]["id"]
    return Person(site.web, await site.people.with_role(role, site.owner.headers, f"{name}@example.org"))


async def ask(site: Site, who: Person, dataset: int, **more: Any) -> dict[str, Any]:
    job = await who.submit(dataset, "statistics", **COUNT, **more)
    return await who.wait(job["id"], "released" if more else "waiting")


async def test_datasets_show_owners_and_waiting_requests_to_those_who_decide(site: Site) -> None:
    uploader = await with_permissions(site, "uploader", "can_upload_data")
    listed = await uploader.upload("listed")
    private = await uploader.upload("private", visibility="private")
    own = await site.owner.upload("own")
    await ask(site, site.scientist, listed)
    await ask(site, site.stranger, listed)
    await ask(site, uploader, private)
    await ask(site, uploader, own)

    def waiting(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[str, int | None]]:
        return {name: (row["owner"], row["num_waiting"]) for name, row in rows.items()}

    hers, ann = "uploader@example.org", "owner@example.org"
    assert waiting(await rows_of(await browser(site, "owner"), "/admin/datasets")) == {
        "listed": (hers, 2),
        "private": (hers, 1),
        "own": (ann, 1),
    }
    assert waiting(await rows_of(await browser(site, "officer"), "/admin/datasets")) == {
        "listed": (hers, 2),
        "own": (ann, 1),
    }
    # She does not decide on her own request, and sees nobody's account but her own.
    assert waiting(await rows_of(await browser(site, "uploader"), "/admin/datasets")) == {
        "listed": (hers, 2),
        "private": (hers, 0),
        "own": ("", None),
    }
    for name in ("scientist", "stranger"):
        who = await browser(site, name)
        assert waiting(await rows_of(who, "/admin/datasets")) == {"listed": ("", None), "own": ("", None)}
        assert "example.org" not in (await who.page("/admin/datasets")).text.replace(f"{name}@example.org", "")


async def test_a_request_of_the_officer_is_not_counted_for_the_officer(site: Site) -> None:
    dataset = await site.owner.upload()
    await ask(site, site.officer, dataset)
    await ask(site, site.scientist, dataset)
    assert (await rows_of(await browser(site, "officer"), "/admin/datasets"))["points"]["num_waiting"] == 1


async def test_waiting_requests_follow_what_happens_for_those_who_decide(site: Site) -> None:
    dataset = await site.owner.upload()
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    streams = [Stream(site.app, "/admin/live?topics=datasets", {"cookie": one.cookie}) for one in (ann, bob)]
    await eventually(lambda: all(b"open" in one.received for one in streams))
    await ask(site, site.stranger, dataset)
    await eventually(lambda: events_of(streams[0], "changed"))
    await ann.post(f"/admin/datasets/{dataset}/edit", {"name": "points", "description": "new", "visibility": "listed"})
    await eventually(lambda: events_of(streams[1], "changed"))
    assert len(events_of(streams[1], "changed")) == 1, "the request of another is not announced to him"


async def test_a_budget_in_the_file_is_the_one_that_the_page_shows(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    await ask(site, site.scientist, dataset, privacy={"epsilon": 0.5, "delta": 1e-6})
    whole = (await rows_of(await browser(site, "owner"), "/admin/datasets"))["points"]
    share = (await rows_of(await browser(site, "stranger"), "/admin/datasets"))["points"]
    assert (whole["budget"], whole["epsilon_cap"]) == ("The whole dataset", 8)
    assert whole["epsilon_spent"] > 0
    assert (share["budget"], share["epsilon_spent"], share["epsilon_cap"]) == ("Your share", 0, 4)


async def test_processes_show_their_owners_to_those_who_see_accounts(site: Site) -> None:
    hosted = await site.owner.call("POST", "/model-centric/host-training", files=form(config("m"), MODEL))
    assert hosted.status_code in (200, 201), hosted.text
    for name, seen in (("owner", "owner@example.org"), ("officer", "owner@example.org"), ("scientist", "")):
        assert (await rows_of(await browser(site, name), "/admin/processes"))["m"]["owner"] == seen


async def test_people_show_groups_jobs_and_epsilon_that_the_reader_may_see(site: Site) -> None:
    uploader = await with_permissions(site, "uploader", "can_upload_data")
    listed, private = await site.owner.upload("listed"), await uploader.upload("private", visibility="private")
    for person, dataset in ((site.owner, listed), (uploader, private)):
        await person.set_policy(dataset)
    await ask(site, site.scientist, listed, privacy={"epsilon": 0.5, "delta": 1e-6})
    await ask(site, site.scientist, listed)
    await ask(site, uploader, private, privacy={"epsilon": 1.0, "delta": 1e-6})
    group = (await site.owner.call("POST", "/groups", json={"name": "=Statisticians"})).json()["group"]["id"]
    bob = (await site.scientist.call("GET", "/users/me")).json()["user"]["id"]
    await site.owner.call("PUT", f"/users/{bob}/groups", json={"groups": [group]})
    share = (await site.scientist.budget(listed))["yours"]

    seen = await rows_of(await browser(site, "owner"), "/admin/people")
    assert (seen["scientist@example.org"]["groups"], seen["scientist@example.org"]["num_jobs"]) == ("=Statisticians", 2)
    assert seen["scientist@example.org"]["epsilon_spent"] == pytest.approx(share)
    assert seen["uploader@example.org"]["num_jobs"] == 1
    assert seen["uploader@example.org"]["epsilon_spent"] > 0
    # The private dataset does not exist for the officer.
    seen = await rows_of(await browser(site, "officer"), "/admin/people")
    assert seen["scientist@example.org"]["num_jobs"] == 2
    assert seen["scientist@example.org"]["epsilon_spent"] == pytest.approx(share)
    assert (seen["uploader@example.org"]["num_jobs"], seen["uploader@example.org"]["epsilon_spent"]) == (0, 0)
    page = await (await browser(site, "officer")).page(f"/admin/people/{bob}")
    assert re.search(r"Jobs 2 on datasets .* Epsilon spent 0\.\d+", page.text), page.text
    assert "'=Statisticians" in (await (await browser(site, "owner")).get("/admin/people?format=csv")).text


async def test_a_list_of_100_decided_jobs_takes_few_statements(site: Site) -> None:
    dataset = await site.owner.upload()
    job = await ask(site, site.scientist, dataset)
    await site.officer.decide("deny", job)

    def copy(connection: sa.Connection) -> None:
        row = dict(connection.execute(jobs.select()).mappings().one())
        copies = [row | {"number": number, "id": f"{number:032x}"} for number in range(1000, 1100)]
        connection.execute(jobs.insert(), copies)

    await service(site.app.state, Store).database.write(copy)
    for name, path in (("owner", "/admin/jobs?whose=all"), ("scientist", "/admin/jobs")):
        who = await browser(site, name)
        with noted_statements(site.app) as statements:
            page = await who.page(path)
        assert len(page.find("tr")) > 100
        assert 3 <= len([one for one in statements if one.startswith("SELECT")]) <= MAX_STATEMENTS, statements


async def test_a_list_of_100_rows_takes_few_statements(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    job = await ask(site, site.scientist, dataset)
    hosted = await site.owner.call("POST", "/model-centric/host-training", files=form(config("m"), MODEL))
    assert hosted.status_code in (200, 201), hosted.text
    ann = await browser(site, "owner")
    await service(site.app.state, Store).database.write(lambda connection: copy_rows(connection, dataset, job["id"]))
    for name in ("datasets", "processes", "people", "budgets"):
        with noted_statements(site.app) as statements:
            await ann.page(f"/admin/{name}")
        assert 3 <= len([one for one in statements if one.startswith("SELECT")]) <= MAX_STATEMENTS, statements


def copy_rows(connection: sa.Connection, dataset: int, job_id: str, num_rows: int = 100) -> None:
    """Add datasets, accounts and jobs of different people on different datasets."""

    def rows(table: sa.Table, **where: Any) -> dict[str, Any]:
        found = connection.execute(table.select().filter_by(**where)).mappings().first()
        assert found is not None
        return dict(found)

    person, data, version = rows(users), rows(datasets, id=dataset), rows(dataset_versions, dataset_id=dataset)
    job = rows(jobs, id=job_id)
    for number in range(1000, 1000 + num_rows):
        email = f"person-{number}@example.org"
        unique = {"email": email, "email_key": email, "private_key_hash": f"{number}"}
        connection.execute(users.insert().values(person | {"id": number} | unique))
        name = {"name": f"data-{number}", "name_key": f"data-{number}"}
        connection.execute(datasets.insert().values(data | {"id": number, "created_by": number} | name))
        connection.execute(dataset_versions.insert().values(version | {"id": number, "dataset_id": number}))
        of = {"dataset_id": number, "version_id": number, "requested_by": number}
        connection.execute(jobs.insert().values(job | {"id": f"{number:032x}", "number": number} | of))
