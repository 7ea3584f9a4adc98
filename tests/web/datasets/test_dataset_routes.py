"""Datasets over HTTP.

Should happen: what was uploaded is found by who may know of it, described, versioned, deleted; its mock twin can be
had. Should not happen: records reach anybody but who may change the dataset; a private dataset is told from none by any
verb; an upload that is refused or breaks off leaves anything behind.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import select
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.core.access import OWNER, Principal
from pygrid.core.datasets import DatasetLimits
from pygrid.domain import build_domain
from pygrid.errors import StorageFull
from pygrid.features.datasets import conversion
from pygrid.features.datasets.forms import Upload
from pygrid.features.datasets.intake import OnDisconnect, never
from pygrid.features.datasets.uploads import UploadsService
from pygrid.lifecycle import ClientGone
from pygrid.messages.datasets import Schema, UploadRequest
from pygrid.settings import DomainSettings
from pygrid.storage.columns import map_columns
from pygrid.storage.sql.database import Database
from pygrid.tensors import decode
from pygrid.web.services import service
from support.datasets import CSV, PATH, Owner, npz, parts
from support.eventually import eventually
from support.web import People, assert_problem, running

DECLARED = {"columns": [{"name": "age", "dtype": "float32", "unit": "years", "min": 0, "max": 120}], "tags": ["Health"]}


async def test_from_upload_to_deletion(owner: Owner, scientist: dict[str, str], clock: ManualClock) -> None:
    web = owner.web
    info = await owner.upload(visibility="listed", description="Ages", **DECLARED)
    assert (info["version"], info["num_records"], info["num_columns"], info["mine"]) == (1, 3, 2, True)
    assert info["schema"]["columns"][1] == {
        "name": "age",
        "dtype": "float32",
        "unit": "years",
        "min": 0.0,
        "max": 120.0,
        "has_missing": False,
    }
    clock.advance(10)
    path = f"{PATH}/{info['id']}"
    answer = await web.put(path, json={"tags": ["ages", "open"]}, headers=owner.headers)
    assert (answer.status_code, answer.json()["tags"], answer.json()["description"]) == (200, ["ages", "open"], "Ages")
    answer = await web.post(f"{path}/versions", files=parts({"note": "more"}, CSV + b"dan,63\n"), headers=owner.headers)
    assert answer.status_code == 201, answer.text
    newer = answer.json()
    assert (newer["id"], newer["version"], newer["num_records"]) == (info["id"], 2, 4)
    assert newer["schema"]["columns"][1] == info["schema"]["columns"][1], "what was said of columns holds on"
    assert [version["note"] for version in newer["versions"]] == ["more", ""]
    first = await web.get(path, params={"version": 1}, headers=scientist)
    assert (first.json()["version"], first.json()["num_records"]) == (1, 3)
    assert len(owner.stored()) == 4
    assert (await web.delete(path, headers=owner.headers)).status_code == 204
    assert owner.stored() == []
    for verb in ("GET", "DELETE"):
        assert_problem(await web.request(verb, path, headers=owner.headers), 404, "dataset_not_found")
    assert (await owner.upload())["id"] > info["id"]


async def test_a_later_version_leaves_out_what_the_one_before_did(owner: Owner, scientist: dict[str, str]) -> None:
    whole = b"name,age,sex\nann,34,f\nbob,51,m\n"
    mock = b"age,sex\n30,f\n"  # without the column that nobody may see
    info = await owner.upload("people", whole, mock, visibility="listed", skip=["name"])
    path = f"{PATH}/{info['id']}"

    async def stored(config: dict[str, Any], content: bytes) -> list[str]:
        answer = await owner.web.post(f"{path}/versions", files=parts(config, content), headers=owner.headers)
        assert answer.status_code == 201, answer.text
        return [column["name"] for column in answer.json()["schema"]["columns"]]

    assert info["schema"]["skipped"] == ["name"]
    assert await stored({}, whole) == ["age", "sex"]
    assert await stored({}, b"age,sex\n34,f\n") == ["age", "sex"], "the file need not have the column"
    assert await stored({}, whole) == ["age", "sex"], "and the version without it does not forget it"
    seen = (await owner.web.get(path, headers=scientist)).json()
    assert "skipped" not in seen["schema"]
    assert await stored({"columns": [{"name": "name"}, {"name": "age"}]}, whole) == ["name", "age", "sex"]
    assert await stored({"skip": ["sex"], "columns": [{"name": "age"}]}, whole) == ["name", "age"]
    refused = await owner.web.post(f"{path}/versions", files=parts({"skip": ["nmae"]}, whole), headers=owner.headers)
    assert_problem(refused, 400, "dataset_columns_differ")


async def test_columns_can_be_mapped_as_they_were_sent(owner: Owner) -> None:
    images, labels = np.random.default_rng(0).random((5, 64), np.float32), np.arange(5)
    columns = [
        {"name": "image", "meaning": "image 1x8x8"},
        {"name": "label", "dtype": "int32", "meaning": "label 0..9"},
    ]
    await owner.upload(data=npz(image=images, label=labels), columns=columns, draw_mock=False)
    (folder,) = owner.stored()
    assert sorted(path.name for path in folder.iterdir()) == ["0.bin", "1.bin", "checksums.json", "schema.json"]
    schema, arrays = map_columns(folder)
    assert [(c.name, c.dtype, c.shape) for c in schema.columns] == [
        ("image", "float32", (1, 8, 8)),
        ("label", "int32", ()),
    ]
    np.testing.assert_array_equal(arrays["image"].reshape(5, 64), images)
    np.testing.assert_array_equal(arrays["label"], labels)


async def test_a_dry_run_shows_the_schema_and_stores_nothing(owner: Owner, scientist: dict[str, str]) -> None:
    before = owner.stored()
    table = b",name,age\n0,ann,30\n1,bob,41\n"
    answer = await owner.web.post(f"{PATH}/dry-run", files=parts({}, table), headers=owner.headers)
    assert answer.status_code == 200, answer.text
    trial = answer.json()
    assert [column["name"] for column in trial["schema"]["columns"]] == ["name", "age"]
    assert "column 1 has no name" in trial["notes"][0]
    assert (await owner.web.get(PATH, headers=owner.headers)).json()["datasets"] == []
    refused = await owner.web.post(f"{PATH}/dry-run", files=parts({}, b"ann,30\nbob,41\n"), headers=owner.headers)
    assert_problem(refused, 400, "dataset_header_unclear")
    forbidden = await owner.web.post(f"{PATH}/dry-run", files=parts({}, table), headers=scientist)
    assert forbidden.status_code == 403
    assert owner.stored() == before


async def test_search_by_words_tags_and_schema(owner: Owner, scientist: dict[str, str]) -> None:
    await owner.upload("ages", visibility="listed", **DECLARED)
    await owner.upload(
        "pictures",
        npz(image=np.zeros((2, 4))),
        visibility="listed",
        columns=[{"name": "image", "meaning": "image 2x2"}],
    )
    await owner.upload("hidden", tags=["Health"])

    async def found(**query: Any) -> list[str]:
        answer = await owner.web.get(PATH, params=query, headers=scientist)
        assert answer.status_code == 200, answer.text
        return [one["name"] for one in answer.json()["datasets"]]

    assert await found() == ["pictures", "ages"]
    assert await found(text="YEARS") == ["ages"]
    assert await found(text="image 2x2") == ["pictures"]
    assert await found(text="nothing") == []
    assert await found(text="%") == await found(text="_") == []
    assert await found(tag="health") == ["ages"]
    assert await found(tag=["health", "other"]) == []
    assert (
        await found(column="AGE")
        == await found(dtype="float32")
        == await found(column="age", dtype="float32")
        == ["ages"]
    )
    assert await found(column="age", dtype="int32") == []
    assert await found(meaning="image") == ["pictures"]
    assert await found(limit=1) == ["pictures"]
    assert await found(limit=1, before=2) == ["ages"]
    assert await found(column="age", limit=1) == ["ages"]
    assert (await owner.web.get("/data-centric/dataset-tags", headers=scientist)).json() == ["Health"]
    for tags, there in ((["x", "health"], True), (["x"], False), ([], False)):
        answer = await owner.web.post("/data-centric/search", json={"query": tags}, headers=scientist)
        assert (answer.status_code, answer.json()) == (200, {"content": there})
    assert_problem(await owner.web.post("/data-centric/search", json={}, headers=scientist), 400, "missing_field")


async def test_without_an_account_only_what_is_public_is_known(owner: Owner) -> None:
    web = owner.web
    ids = {v: (await owner.upload(v, visibility=v, tags=[v]))["id"] for v in ("private", "listed", "public")}
    assert [one["name"] for one in (await web.get(PATH)).json()["datasets"]] == ["public"]
    assert (await web.get("/data-centric/dataset-tags")).json() == ["public"]
    assert (await web.post("/data-centric/search", json={"query": ["listed"]})).json() == {"content": False}
    for visibility, dataset_id in ids.items():
        for path in (f"{PATH}/{dataset_id}", f"{PATH}/{dataset_id}/mock"):
            answer = await web.get(path)
            if visibility == "public":
                assert answer.status_code == 200
            else:
                assert_problem(answer, 404, "dataset_not_found")
        assert (await web.get(f"{PATH}/{dataset_id}/preview")).status_code == 401
        assert (await web.delete(f"{PATH}/{dataset_id}")).status_code == 401
    bad = {"Authorization": "Bearer nonsense"}
    assert_problem(await web.get(PATH, headers=bad), 401, "invalid_credentials")


async def test_a_private_dataset_is_like_none_for_every_verb(admin: Owner, people: People, owner: Owner) -> None:
    """For another uploader and for a scientist: same status and body as of a dataset that never was, but for the
    number.
    """
    mine = await admin.upload("mine", tags=["secret-tag"])
    others = [
        await people.with_role(3, owner.headers, "second@example.org"),
        await people.with_role(1, owner.headers, "third@example.org"),
    ]
    web = admin.web
    for headers in others:
        for verb, suffix, more in (
            ("GET", "", {}),
            ("GET", "/mock", {}),
            ("GET", "/preview", {}),
            ("PUT", "", {"json": {"description": "x"}}),
            ("DELETE", "", {}),
            ("POST", "/versions", {"files": parts({})}),
        ):
            there, nowhere = [
                await web.request(verb, f"{PATH}/{number}{suffix}", headers=headers, **more)  # type: ignore[arg-type]
                for number in (mine["id"], 999)
            ]
            assert_problem(there, 404, "dataset_not_found")
            assert there.text.replace(str(mine["id"]), "N") == nowhere.text.replace("999", "N").replace(
                str(mine["id"]), "N"
            )
        assert (await web.get(f"{PATH}/by-name", params={"name": "mine"}, headers=headers)).status_code == 404
        assert (await web.get(PATH, headers=headers)).json()["datasets"] == []
        assert (await web.get("/data-centric/dataset-tags", headers=headers)).json() == []
    answer = await web.post(PATH, files=parts({"name": "mine"}), headers=others[0])
    assert answer.status_code == 201, "a name that somebody else has is free, or it would tell of their dataset"
    assert (await web.get(f"{PATH}/by-name", params={"name": "MINE"}, headers=others[0])).json()["id"] != mine["id"]


async def test_who_sees_a_dataset_may_not_change_it(
    admin: Owner, owner: Owner, scientist: dict[str, str], people: People
) -> None:
    info = await admin.upload("seen", visibility="public")
    second = await people.with_role(3, owner.headers, "second@example.org")
    web, path = admin.web, f"{PATH}/{info['id']}"
    for headers, code in ((scientist, "not_permitted"), (second, "not_your_dataset")):
        assert (await web.get(path, headers=headers)).json()["mine"] is False
        assert_problem(await web.get(f"{path}/preview", headers=headers), 403, code)
        assert_problem(await web.put(path, json={"name": "x"}, headers=headers), 403, code)
        assert_problem(await web.delete(path, headers=headers), 403, code)
        assert_problem(await web.post(f"{path}/versions", files=parts({}), headers=headers), 403, code)
    assert_problem(await web.post(PATH, files=parts({"name": "x"}), headers=scientist), 403, "not_permitted")
    assert_problem(await web.post(PATH, files=parts({"name": "x"})), 401, "unauthenticated")
    assert (await web.get(f"{path}/preview", headers=owner.headers)).status_code == 200, "the role Owner may"


async def test_records_are_told_to_nobody_else(owner: Owner, scientist: dict[str, str]) -> None:
    data = b"who,value\nXSECRETX,123456789\nYSECRETY,987654321\n"
    info = await owner.upload("secret", data, visibility="public")
    path = f"{PATH}/{info['id']}"
    preview = (await owner.web.get(f"{path}/preview", params={"num_records": 1}, headers=owner.headers)).json()
    assert preview == {"num_records": 2, "columns": {"who": ["XSECRETX"], "value": [123456789]}}
    for headers in ({}, scientist):
        for url in (
            PATH,
            path,
            f"{path}/mock",
            f"{path}/preview",
            f"{PATH}/by-name?name=secret",
            "/data-centric/dataset-tags",
        ):
            answer = await owner.web.get(url, headers=headers)
            assert b"SECRET" not in answer.content, url
            assert b"123456789" not in answer.content, url
            assert np.int64(123456789).tobytes() not in answer.content, url


async def mock_of(web: httpx.AsyncClient, info: dict[str, Any]) -> tuple[Schema, dict[str, Any]]:
    answer = await web.get(f"{PATH}/{info['id']}/mock")
    assert answer.status_code == 200, answer.text
    arrays, metadata = decode(answer.content)
    assert answer.headers["content-length"] == str(len(answer.content))
    return msgspec.json.decode(metadata["schema"], type=Schema), arrays


async def test_a_mock_is_drawn_or_uploaded_or_not_there(owner: Owner) -> None:
    drawn = await owner.upload("a", visibility="public", num_mock_records=7, **DECLARED)
    schema, arrays = await mock_of(owner.web, drawn)
    assert schema.num_records == len(arrays["age"]) == 7
    assert arrays["age"].dtype == np.float32
    again = await owner.upload("b", b"name,age\nzed,1\n", visibility="public", num_mock_records=7, **DECLARED)
    np.testing.assert_array_equal((await mock_of(owner.web, again))[1]["age"], arrays["age"])
    uploaded = await owner.upload("c", visibility="public", mock=b"age,name\n1,mocky\n", **DECLARED)
    schema, arrays = await mock_of(owner.web, uploaded)
    assert (arrays["age"].tolist(), schema.find("name").categories) == ([1.0], ("mocky",))  # type: ignore[union-attr]
    none = await owner.upload("d", visibility="public", draw_mock=False)
    assert_problem(await owner.web.get(f"{PATH}/{none['id']}/mock"), 404, "mock_not_found")
    assert [one["versions"][0]["mock"] for one in (drawn, uploaded, none)] == ["drawn", "uploaded", "none"]


async def test_a_mock_has_missing_values_where_the_data_has(owner: Owner) -> None:
    gaps, full = b"name,age\nann,30.5\nbob,\n", b"name,age\nann,30.5\nbob,41\n"
    info = await owner.upload("a", gaps, visibility="public", num_mock_records=30, **DECLARED)
    assert info["schema"]["columns"][1]["has_missing"] is True
    schema, arrays = await mock_of(owner.web, info)
    assert schema.columns[1].has_missing
    assert 0 < np.isnan(arrays["age"]).sum() < 30
    own = await owner.upload("b", gaps, gaps, visibility="public", **DECLARED)
    assert np.isnan((await mock_of(owner.web, own))[1]["age"]).tolist() == [False, True]
    without = await owner.upload("c", full, visibility="public", num_mock_records=30, **DECLARED)
    assert np.isfinite((await mock_of(owner.web, without))[1]["age"]).all()
    for data, mock, words in ((gaps, full, "has no missing values"), (full, gaps, "has missing values")):
        problem = assert_problem(await owner.try_upload({"name": "x", **DECLARED}, data, mock), 400, "mock_differs")
        assert words in problem["detail"]


async def test_a_mock_of_other_columns_is_refused(owner: Owner) -> None:
    lacking = assert_problem(await owner.try_upload({"name": "x"}, CSV, b"name\nx\n"), 400, "dataset_columns_differ")
    assert lacking["detail"].startswith("in the mock: column 'age'")
    assert_problem(await owner.try_upload({"name": "x"}, CSV, b"name,age,more\nx,1,1\n"), 400, "mock_differs")
    assert_problem(
        await owner.try_upload({"name": "x", **DECLARED}, CSV, b"name,age\nx,999\n"), 400, "dataset_out_of_range"
    )
    assert owner.stored() == []


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (b"not json", "invalid_dataset_config"),
        (b"\xff\xfe", "invalid_dataset_config"),
        (b"[" * 5000, "invalid_dataset_config"),
        ({}, "invalid_dataset_config"),
        ({"name": "x", "colums": []}, "invalid_dataset_config"),
        ({"name": ""}, "invalid_dataset_config"),
        ({"name": "x", "visibility": "secret"}, "invalid_dataset_config"),
        ({"name": "x", "format": "pickle"}, "invalid_dataset_config"),
        ({"name": "x", "subject": "who"}, "invalid_dataset_config"),
        ({"name": "x", "subject": "who", "max_records_per_subject": 2}, "dataset_columns_differ"),
        ({"name": "x", "skip": ["who"]}, "dataset_columns_differ"),
        ({"name": "x", "columns": [{"name": "a", "dtype": "object"}]}, "invalid_dataset_config"),
    ],
)
async def test_a_config_that_makes_no_sense_is_refused(owner: Owner, config: Any, code: str) -> None:
    assert_problem(await owner.try_upload(config), 400, code)
    assert owner.stored() == []


async def test_a_form_that_is_none_is_refused(owner: Owner) -> None:
    good = parts({"name": "x"})
    for form in (good[:1], good[1:], good[::-1], [*good, good[1]], [good[0], *good], [good[0], ("more", good[1][1])]):
        assert_problem(await owner.web.post(PATH, files=form, headers=owner.headers), 400, "invalid_form")
    assert_problem(await owner.try_upload({"name": "x"}, b""), 400, "invalid_form")
    for headers in ({}, {"Content-Type": "multipart/form-data"}, {"Content-Type": "application/json"}):
        answer = await owner.web.post(PATH, content=b"{}", headers={**owner.headers, **headers})
        assert_problem(answer, 400, "invalid_form")
    cut = {**owner.headers, "Content-Type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="config"\r\n\r\n{"name": "x"}\r\n--b\r\n'
    body += b'Content-Disposition: form-data; name="data"; filename="../../etc/passwd"\r\n\r\na\n1\n'
    assert_problem(await owner.web.post(PATH, content=body, headers=cut), 400, "invalid_form")
    assert owner.stored() == []


async def test_one_of_two_uploads_of_a_name_wins(owner: Owner) -> None:
    answers = await asyncio.gather(*(owner.try_upload({"name": "same", "draw_mock": False}) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert_problem(next(a for a in answers if a.status_code == 409), 409, "dataset_exists")
    assert len(owner.stored()) == 1
    other = await owner.upload("other")
    answer = await owner.web.put(f"{PATH}/{other['id']}", json={"name": "SAME"}, headers=owner.headers)
    assert_problem(answer, 409, "dataset_exists")


async def test_versions_added_at_once_get_numbers_of_their_own(owner: Owner) -> None:
    info = await owner.upload()
    path = f"{PATH}/{info['id']}/versions"
    answers = await asyncio.gather(*(owner.web.post(path, files=parts({}), headers=owner.headers) for _ in range(4)))
    assert sorted(answer.json()["version"] for answer in answers) == [2, 3, 4, 5]


async def _upload(
    domain: Litestar,
    body: AsyncIterator[bytes],
    *,
    announced_bytes: int | None = None,
    departed: OnDisconnect = never,
) -> None:
    """Upload a form without a request."""
    uploads, owner = service(domain.state, UploadsService), Principal(1, OWNER)
    upload = Upload("multipart/form-data; boundary=b", body, uploads.limits.max_upload_bytes)
    async with uploads.receive(owner, await upload.config(UploadRequest), announced_bytes) as draft:
        await uploads.upload(owner, draft, await upload.files_into(draft.folder), departed)


async def test_an_upload_that_breaks_off_leaves_nothing(owner: Owner, domain: Litestar) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="config"\r\n\r\n{"name": "x"}\r\n--b\r\n'
    head += b'Content-Disposition: form-data; name="data"\r\n\r\na\n'
    seen: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        yield head
        for _ in range(5):
            yield b"1\n" * 500_000
        seen.append(len(owner.stored()))
        raise ClientGone

    with pytest.raises(ClientGone):
        await _upload(domain, body())
    assert seen == [3], "the drafts of the upload, its data and its mock were there"
    assert owner.stored() == []
    assert (await owner.web.get(PATH, headers=owner.headers)).json()["datasets"] == []


async def test_an_upload_whose_caller_gives_up_at_the_last_moment_is_whole(
    owner: Owner, domain: Litestar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes on with what it was given, so the records must be there when the row is."""
    held, given = threading.Event(), asyncio.Event()
    database = service(domain.state, Database)
    write = database.write

    async def watched(*unit: Any) -> Any:
        given.set()
        return await write(*unit)

    monkeypatch.setattr(database, "write", watched)
    database.write_later(lambda _connection: held.wait(60))
    config = b'--b\r\nContent-Disposition: form-data; name="config"\r\n\r\n{"name": "x"}\r\n--b\r\n'
    data = b'Content-Disposition: form-data; name="data"\r\n\r\n' + CSV + b"\r\n--b--\r\n"

    async def body() -> AsyncIterator[bytes]:
        yield config + data

    task = asyncio.create_task(_upload(domain, body()))
    await asyncio.wait_for(given.wait(), 60)
    assert len([path for path in owner.stored() if len(path.name) == 64]) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.set()
    preview = f"{PATH}/1/preview"

    async def found() -> httpx.Response | None:
        answer = await owner.web.get(preview, headers=owner.headers)
        if answer.status_code != 404:
            return answer
        assert answer.json()["code"] == "dataset_not_found", "a row without its records"
        return None

    answer = await eventually(found)
    assert answer.json()["columns"]["name"] == ["ann", "bob", "cleo"]


async def test_a_restart_finds_datasets_and_removes_what_a_kill_left(
    settings: DomainSettings, clock: ManualClock, owner: Owner, tmp_path: Path
) -> None:
    """The folder of a Domain that was killed, copied while it ran."""
    info = await owner.upload()
    killed = dataclasses.replace(
        settings, data_dir=tmp_path / "killed", database_url=f"sqlite:///{tmp_path}/killed/domain.db"
    )
    shutil.copytree(settings.data_dir, killed.data_dir)
    folder = killed.data_dir / "datasets"
    kept = sorted(path.name for path in folder.iterdir())
    (folder / ".0123.part").mkdir()
    (folder / ".0123.part" / "data").write_bytes(b"half of it")
    (folder / ("0" * 64)).mkdir()
    async with running(build_domain(killed, clock=clock)) as again:
        found = (await again.get(PATH, headers=owner.headers)).json()["datasets"]
    assert [one["id"] for one in found] == [info["id"]]
    assert sorted(path.name for path in folder.iterdir()) == kept


@pytest.fixture
def small(domain: Litestar) -> None:
    service(domain.state, UploadsService).limits = DatasetLimits(
        max_upload_bytes=2000, max_total_bytes=100, free_bytes=100
    )


@pytest.mark.usefixtures("small")
async def test_limits_hold(owner: Owner) -> None:
    assert_problem(await owner.try_upload({"name": "x"}, b"a\n" + b"1\n" * 5000), 413, "payload_too_large")
    assert_problem(await owner.try_upload({"name": "x"}, b"a\n" + b"1\n" * 50), 413, "dataset_too_large")
    await owner.upload("one", b"a\n" + b"1\n" * 8)
    problem = assert_problem(await owner.try_upload({"name": "two"}, b"a\n" + b"1\n" * 8), 413, "dataset_quota")
    assert "100 bytes together, and this one needs 64," in problem["detail"]
    assert "stored_bytes" not in problem, "the sizes of others are private"
    assert len(owner.stored()) == 2
    announced = {**owner.headers, "Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(10**12)}
    assert_problem(await owner.web.post(PATH, content=b"x", headers=announced), 413, "payload_too_large")


async def test_an_upload_is_refused_before_it_is_taken_if_the_disk_has_no_room(owner: Owner, domain: Litestar) -> None:
    free = shutil.disk_usage(owner.folder).free
    service(domain.state, UploadsService).limits = DatasetLimits(min_free_bytes=free * 2)
    problem = assert_problem(await owner.try_upload({"name": "x"}), 507, "storage_full")
    assert "has too little space for this upload" in problem["detail"]
    assert "free_bytes" not in problem, "what others store is private"
    assert owner.stored() == []
    # Announced, and so large that its files and their columns would not leave what is to be free: no byte of a file is
    # taken.
    service(domain.state, UploadsService).limits = DatasetLimits(min_free_bytes=free // 2)
    taken: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="config"\r\n\r\n{"name": "x"}\r\n--b\r\n'
        taken.append(b"asked for more")
        yield b""

    with pytest.raises(StorageFull):
        await _upload(domain, body(), announced_bytes=free // 2)
    assert taken == []
    assert owner.stored() == []
    service(domain.state, UploadsService).limits = DatasetLimits()
    await owner.upload()


async def test_limits_are_those_of_the_settings(settings: DomainSettings, clock: ManualClock) -> None:
    chosen = dataclasses.replace(settings, max_upload_mb=1, max_datasets_mb=2, max_columns=3, min_free_mb=4)
    limits = service(build_domain(chosen, clock=clock).state, UploadsService).limits
    assert (limits.max_upload_bytes, limits.max_total_bytes) == (2**20, 2**21)
    assert (limits.max_columns, limits.min_free_bytes) == (3, 2**22)


async def test_an_upload_whose_client_goes_while_it_is_read_leaves_nothing(
    owner: Owner, domain: Litestar, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, held = threading.Event(), threading.Event()
    monkeypatch.setattr(
        conversion, "convert_in_child", lambda _asked, stop: (begun.set(), select.select([stop], [], []), held.set())
    )

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="config"\r\n\r\n{"name": "x"}\r\n--b\r\n'
        yield b'Content-Disposition: form-data; name="data"\r\n\r\n' + CSV + b"\r\n--b--\r\n"

    async def departed() -> None:
        await asyncio.to_thread(begun.wait)

    with pytest.raises(ClientGone):
        await _upload(domain, body(), departed=departed)
    assert held.is_set(), "the child was told to stop, and had ended before its folder was removed"
    assert owner.stored() == []


async def test_an_update_that_makes_no_sense_changes_nothing(owner: Owner) -> None:
    info = await owner.upload(description="as it was", tags=["t"])
    path = f"{PATH}/{info['id']}"
    for body in (
        {"name": "a/b"},
        {"tags": ["x" * 51]},
        {"visibility": "secret"},
        {"nam": "x"},
        {"description": 3},
        {"tags": "x"},
    ):
        answer = await owner.web.put(path, json=body, headers=owner.headers)
        assert answer.status_code == 400, (body, answer.text)
    unchanged = (await owner.web.get(path, headers=owner.headers)).json()
    assert {**unchanged, "updated_at": 0} == {**info, "updated_at": 0}
    assert_problem(
        await owner.web.get(f"{PATH}/1", params={"version": 9}, headers=owner.headers), 404, "dataset_version_not_found"
    )


async def test_records_that_were_lost_are_told_as_that(owner: Owner, data_dir: Path) -> None:
    info = await owner.upload()
    for folder in owner.stored():
        (folder / "0.bin").unlink()
    path = f"{PATH}/{info['id']}"
    assert_problem(await owner.web.get(f"{path}/preview", headers=owner.headers), 404, "records_not_found")
    assert_problem(await owner.web.get(f"{path}/mock", headers=owner.headers), 404, "records_not_found")
    assert json.loads((await owner.web.get(path, headers=owner.headers)).text)["id"] == info["id"]
