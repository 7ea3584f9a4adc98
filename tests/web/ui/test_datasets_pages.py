"""Datasets in the console: a file is staged, described and stored; budgets, edits, the end of a dataset.

Should happen: nothing is stored before the owner has seen it; what is raised or deleted needs a recent password.
Should not happen: somebody else sees a staged file or the exact figures of the data.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from pygrid.domain import build_domain
from pygrid.features.datasets.uploads import UploadsService
from pygrid.settings import DomainSettings
from pygrid.web.services import service
from support.console import Browser, Page
from support.jobs import Site, running_site
from support.web import PASSWORD, running

CSV = b"age,town,mrn\n" + b"".join(b"%d,%s,m%03d\n" % (20 + n, (b"Bern", b"Chur")[n % 2], n) for n in range(30))


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str = "owner") -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


async def stage(who: Browser, data: bytes = CSV, name: str = "patients.csv") -> httpx.Response:
    return await who.send_file("/admin/datasets/staged", data, name)


def fields_of(page: Page) -> dict[str, str]:
    """The columns of the editor, as a browser sends them."""
    fields = {one["name"]: one.get("value", "") for one in page.find("input") if "name" in one}
    return {name: value for name, value in fields.items() if not name.startswith(("join_", "pick_", "mock"))}


async def test_a_file_is_looked_at_described_and_stored(site: Site) -> None:
    ann = await browser(site)
    answer = await stage(ann)
    assert answer.status_code == 303, answer.text
    path = answer.headers["location"]
    page = await ann.page(path)
    assert "30 records, 3 columns" in page.text
    assert "it tells records apart" in page.text
    assert "made-up records that others see" in page.text
    before = await site.owner.call("GET", "/data-centric/datasets")
    assert before.json()["datasets"] == [], "nothing is stored before the owner says so"

    fields = {**fields_of(page), "min_0": "0", "max_0": "30", "name": "patients", "visibility": "listed"}
    del fields["use_2"]
    refused = await ann.post(path, {**fields, "act": "store"})
    assert refused.status_code == 400, "an age is above the declared maximum"
    assert 'value="30"' in refused.text, "what was typed stays"
    stored = await ann.post(path, {**fields, "max_0": "120", "act": "store"})
    assert stored.status_code == 303, Page.read(stored).text
    dataset = stored.headers["location"]
    assert (await ann.get(path)).status_code == 404
    columns = await ann.page(f"{dataset}?tab=columns")
    assert "0 .. 120" in columns.text
    assert "mrn" not in columns.text
    for tab in ("about", "mock", "data", "versions", "budget", "requests", "nothing"):
        await ann.page(f"{dataset}?tab={tab}")
    assert "for you alone" in (await ann.page(f"{dataset}?tab=data")).text
    bob = await browser(site, "scientist")
    for private in ("for you alone", "Your data", "Delete"):
        assert private not in (await bob.page(f"{dataset}?tab=data")).text
    await _budget(site, ann, bob, dataset)
    await _version(ann, dataset)
    await _end(site, ann, bob, dataset)


async def _budget(site: Site, ann: Browser, bob: Browser, dataset: str) -> None:
    page = await ann.page(f"{dataset}?tab=budget")
    assert [one["value"] for one in page.find("button", name="epsilon")] == ["1.0", "3.0", "8.0"]
    hidden = {one["name"]: one["value"] for one in page.find("input", type="hidden")}
    assert hidden["delta"] == "0.001"
    assert (await bob.post(f"{dataset}/budget", {**hidden, "epsilon": "3"})).status_code == 403
    for wrong in ({"epsilon": "-1"}, {"epsilon": "x"}, {"epsilon": "3", "delta": "0.5"}):
        assert (await ann.post(f"{dataset}/budget", {**hidden, **wrong})).status_code == 400
    assert (await ann.post(f"{dataset}/budget", {**hidden, "epsilon": "3.0"})).status_code == 303
    assert "can become at most 95% sure" in (await ann.page(f"{dataset}?tab=budget")).text
    number = int(dataset.rsplit("/", 1)[1])
    assert (await site.owner.budget(number))["policy"]["epsilon_per_user"] == 3.0


async def _version(ann: Browser, dataset: str) -> None:
    path = (await stage(ann)).headers["location"]
    fields = {**fields_of(await ann.page(path)), "target": dataset.rsplit("/", 1)[1], "note": "more"}
    fields.pop("use_2")
    answer = await ann.post(path, {**fields, "min_0": "0", "max_0": "120", "act": "store"})
    assert answer.headers.get("location") == dataset, answer.text
    assert "more" in (await ann.page(f"{dataset}?tab=versions")).text


async def _end(site: Site, ann: Browser, bob: Browser, dataset: str) -> None:
    edited = {"name": "patients", "description": "of a ward", "tags": "beds, age", "visibility": "private"}
    assert (await bob.post(f"{dataset}/edit", edited)).status_code == 403
    assert (await ann.post(f"{dataset}/edit", {**edited, "visibility": "all"})).status_code == 400
    assert (await ann.post(f"{dataset}/edit", edited)).status_code == 303
    assert "beds, age" in (await ann.page(dataset)).text
    assert (await bob.get(dataset)).status_code == 404
    assert (await ann.post(f"{dataset}/delete", {"name": "another"})).status_code == 400
    assert (await ann.post(f"{dataset}/delete", {"name": "patients"})).status_code == 303
    assert (await ann.get(dataset)).status_code == 404


async def test_selected_columns_are_changed_at_once(site: Site) -> None:
    ann = await browser(site)
    path = (await stage(ann)).headers["location"]
    fields = {**fields_of(await ann.page(path)), "bulk_min": "0", "bulk_max": "130", "act": "bulk"}
    refused = await ann.post(path, fields)
    assert (refused.status_code, "select columns first" in refused.text) == (400, True)
    page = Page.read(await ann.post(path, {**fields, "pick_0": "1", "bulk_dtype": "float32"}))
    assert (page.find("input", name="min_0")[0]["value"], page.find("input", name="max_0")[0]["value"]) == ("0", "130")
    assert page.find("input", name="min_1")[0]["value"] == ""
    assert "checked" not in page.find("input", name="pick_0")[0]
    page = Page.read(await ann.post(path, {**fields, "pick_1": "1", "pick_2": "1", "bulk_use": "0", "bulk_min": ""}))
    assert ["checked" in one for one in page.find("input", value="1") if one["name"].startswith("use_")] == [
        True,
        False,
        False,
    ]
    assert page.text.count("left out") >= 2
    page = Page.read(await ann.post(path, {**fields, "pick_all": "1", "bulk_min": "", "bulk_max": ""}))
    assert len(page.find("input", name="use_2", checked="")) == 1


async def test_bounds_are_taken_from_the_data_only_with_a_warning(site: Site) -> None:
    ann = await browser(site)
    data = b"age,day,town\n" + b"".join(b"%d.5,2024-01-%02d,Bern\n" % (20 + n, 1 + n) for n in range(20))
    path = (await stage(ann, data)).headers["location"]
    page = await ann.page(path)
    (button,) = page.find("button", value="bounds")
    assert button["aria-describedby"] == "bounds-warning"
    assert "tells everybody who sees the dataset its smallest or largest value" in page.text
    fields = {**fields_of(page), "dtype_1": "date", "act": "bounds"}
    assert not any(fields[f"min_{row}"] for row in range(3)), "bounds are not filled in by themselves"
    assert (await ann.post(path, fields)).status_code == 400
    text = await ann.post(path, {**fields, "pick_2": "1"})
    assert (text.status_code, "no selected column has numbers or times" in text.text) == (400, True)
    page = Page.read(await ann.post(path, {**fields, "pick_0": "1", "pick_1": "1"}))
    bounds = [page.find("input", name=f"{part}_{row}")[0]["value"] for row in (0, 1) for part in ("min", "max")]
    assert bounds == ["20.5", "39.5", "2024-01-01", "2024-01-20"]
    stored = await ann.post(
        path, {**fields_of(page), "dtype_1": "date", "name": "days", "visibility": "private", "act": "store"}
    )
    assert stored.status_code == 303, Page.read(stored).text
    assert "20.5 .. 39.5" in (await ann.page(f"{stored.headers['location']}?tab=columns")).text


async def test_an_own_mock_is_checked_and_stored(site: Site) -> None:
    ann, officer = await browser(site), await browser(site, "officer")
    path = (await stage(ann)).headers["location"]
    fields = {**fields_of(await ann.page(path)), "min_0": "0", "max_0": "99", "name": "patients"}
    fields |= {"visibility": "listed", "description": "typed before"}
    del fields["use_2"]

    async def send(mock: bytes) -> tuple[int, Page]:
        answer = await ann.upload(f"{path}/mock", fields, {"mock": mock})
        return answer.status_code, Page.read(answer)

    for wrong, words in (
        (b"", "choose the file of the mock dataset"),
        (b"age,city\n30,Bern\n", "in the mock: "),
        (b"age,town,mrn\n300,Bern,x\n", "in the mock: "),
        (b"age,town,mrn\nold,Bern,x\n", "in the mock: "),
    ):
        status, page = await send(wrong)
        assert (status, words in page.text) == (400, True), page.text
        assert page.find("input", name="max_0")[0]["value"] == "99", "what was typed stays"
        assert "typed before" in page.text
    again = await ann.post(path, {**fields, "draw_mock": "file", "act": "store"})
    assert (again.status_code, "in the mock: " in again.text) == (400, True), "a mock that was refused is not stored"
    status, page = await send(b"age,town,mrn\n77,Bern,made up\n78,Chur,made up\n")
    assert (status, page.find("option", value="file", selected="") != []) == (200, True)
    assert "77" in page.text
    assert (await officer.upload(f"{path}/mock", fields, {"mock": b"age\n1\n"})).status_code == 403
    stored = await ann.post(path, {**fields, "draw_mock": "file", "act": "store"})
    assert stored.status_code == 303, Page.read(stored).text
    mock = (await officer.page(f"{stored.headers['location']}?tab=mock")).text
    assert "77 Bern 78 Chur" in mock


async def test_the_form_with_a_mock_is_bounded(site: Site) -> None:
    ann = await browser(site)
    path = (await stage(ann)).headers["location"]
    fields = {f"unit_{row}": "x" * 600_000 for row in range(2)}
    answer = await ann.upload(f"{path}/mock", fields, {"mock": b"age,town,mrn\n77,Bern,x\n"})
    assert answer.status_code == 413, answer.text


async def test_prepared_columns_say_how_they_are_computed(site: Site) -> None:
    steps = [{"step": "clip", "low": 20, "high": 70}, {"step": "standardize"}]
    prepare = [{"name": "age_std", "source": "age", "steps": steps}]
    dataset = await site.owner.upload(prepare=prepare)
    page = await (await browser(site)).page(f"/admin/datasets/{dataset}?tab=columns")
    assert "age,clip=20..70,standardize" in page.text
    assert page.text.count("the file") == 4


async def test_columns_that_cannot_be_stored_are_left_out_by_themselves(site: Site) -> None:
    ann = await browser(site)
    rows = b"".join(b"p%05d,%d,%s\n" % (n, n % 90, b"z" * (5000 if n == 7 else 1)) for n in range(10_001))
    path = (await stage(ann, b"mrn,age,note\n" + rows)).headers["location"]
    page = await ann.page(path)
    assert "10,001 records, 3 columns" in page.text
    assert "left out: a column of texts is for categories, and this one has too many" in page.text
    assert "left out: it has a text that is too long for a category" in page.text
    fields = {**fields_of(page), "name": "patients", "visibility": "listed", "act": "store"}
    assert [name for name in fields if name.startswith("use_")] == ["use_0", "use_1", "use_2"]
    for one in page.find("input", type="checkbox"):
        if one["name"].startswith("use_") and "checked" not in one:
            del fields[one["name"]]
    stored = await ann.post(path, fields)
    assert stored.status_code == 303, stored.text
    columns = await ann.page(f"{stored.headers['location']}?tab=columns")
    assert "age" in columns.text
    assert "mrn" not in columns.text


async def test_a_page_of_a_file_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, num_reads = await browser(site), 0
    path = (await stage(ann)).headers["location"]
    uploads = service(site.app.state, UploadsService)
    try_upload = uploads.try_upload

    async def counted(*args: Any) -> Any:
        nonlocal num_reads
        num_reads += 1
        return await try_upload(*args)

    monkeypatch.setattr(uploads, "try_upload", counted)
    first = await ann.page(path)
    assert (await ann.page(path)).html == first.html
    assert num_reads == 1
    assert (await ann.post(path, {**fields_of(first), "min_0": "0", "act": "check"})).status_code == 200
    assert num_reads == 2


async def test_a_script_asks_whether_there_is_room(site: Site) -> None:
    ann, path = await browser(site), "/admin/datasets/new?part=room&bytes="
    assert (await ann.get(f"{path}1000")).text.strip() == ""
    assert "the file has more than" in (await ann.get(f"{path}{10**15}")).text
    assert (await ann.get(f"{path}x")).text.strip() == ""
    for _ in range(3):
        assert (await stage(ann)).status_code == 303
    assert "you have 3 uploads that are not stored" in (await ann.get(f"{path}1000")).text


async def test_a_full_disk_is_told_before_a_byte_is_sent(settings: DomainSettings) -> None:
    async with running_site(dataclasses.replace(settings, min_free_mb=10**9)) as site:
        ann = await browser(site)
        told = (await ann.get("/admin/datasets/new?part=room&bytes=1000")).text
        assert "too little space for this upload, which needs about 1 kB" in told, told
        assert (await stage(ann)).status_code == 507


async def test_a_disk_that_fills_up_during_an_upload_is_told(site: Site) -> None:
    ann = await browser(site)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that reaches the limit is refused by the system as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, before[1]))
    try:
        answer = await stage(ann, b"age\n" + b"34\n" * 4_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.status_code == 507
    assert "the disk of this server is full, so nothing was stored" in Page.read(answer).text
    assert (await stage(ann)).status_code == 303


async def test_a_staged_file_is_for_who_sent_it(site: Site) -> None:
    ann, bob, officer = await browser(site), await browser(site, "scientist"), await browser(site, "officer")
    path = (await stage(ann)).headers["location"]
    assert (await officer.get(path)).status_code == 403
    assert (await bob.get(path)).status_code == 403
    assert (await stage(bob)).status_code == 403
    assert (await ann.post(path, {"act": "perhaps"})).status_code == 400
    assert (await ann.post(path, {"act": "discard"})).headers["location"] == "/admin/datasets/new"
    assert (await ann.get(path)).status_code == 404
    assert (await ann.get("/admin/datasets/staged/" + "0" * 32)).status_code == 404
    assert (await ann.get("/admin/datasets/staged/..%2f..")).status_code == 404


async def test_files_that_cannot_be_read_and_too_many_are_refused(site: Site) -> None:
    ann = await browser(site)
    path = (await stage(ann, b"\x00\x01\x02", "<b>x</b>.bin")).headers["location"]
    page = Page.read(await ann.get(path))
    assert not page.find("b"), "the name of a file is a text"
    assert "Code" in page.text
    assert (await ann.post("/admin/datasets/staged", {"config": "{}"})).status_code in (400, 415)
    others = [await stage(ann) for _ in range(2)]
    assert [one.status_code for one in others] == [303, 303]
    assert (await stage(ann)).status_code == 429
    assert "Not stored yet" in (await ann.page("/admin/datasets/new")).text
    for one in (path, *(answer.headers["location"] for answer in others)):
        await ann.post(one, {"act": "discard"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_0": "x"}, "not a number"),
        ({"min_0": "nan"}, "finite"),
        ({"dtype_0": "float128"}, "choose a type"),
        ({"num_mock_records": "-3"}, "whole number"),
        ({"visibility": "world"}, "who sees"),
        ({"encoding": "ebcdic"}, "encoding"),
        ({"name": ""}, "write a name"),
    ],
)
def test_what_cannot_be_read_is_told(fields: dict[str, Any], words: str) -> None:
    from pygrid.errors import InvalidInput
    from pygrid.ui.upload_forms import read_upload

    whole = {"name": "x", "col_0": "age", "use_0": "1", **fields}
    with pytest.raises(InvalidInput, match=words):
        read_upload(whole)


def test_columns_that_are_counted_are_offered_as_one_array() -> None:
    from pygrid.core.column_hints import find_series
    from pygrid.messages.datasets import ColumnDeclaration
    from pygrid.ui.upload_forms import read_columns

    names = ["label", *(f"pixel{number}" for number in range(64)), "a1", "a2"]
    assert find_series(names) == [("pixel", 64)]
    declared, skip = read_columns({"join_pixel": "1"})
    assert (declared, skip) == ((ColumnDeclaration("pixel", source=("pixel*",)),), ())


async def test_a_new_domain_begins_with_a_sample(settings: DomainSettings) -> None:
    async with running(build_domain(settings)) as web:
        ann = Browser(web)
        sent = {"email": "ann@example.org", "password": PASSWORD, "sample": "1"}
        assert (await ann.post("/admin/setup", sent)).status_code == 303
        page = await ann.page("/admin/")
        assert "cells has no budget" in page.text
        assert "Host a model" in page.text
        columns = (await ann.page("/admin/datasets/1?tab=columns")).text
        assert "0 .. 60" in columns
        assert "measurements float32 30" in columns
        again = await ann.post("/admin/datasets/sample")
        assert (again.status_code, "dataset_exists" in again.text) == (409, True)
