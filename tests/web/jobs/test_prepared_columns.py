"""Prepared columns over HTTP: made with an upload or afterwards, carried to later versions, and read by jobs.

Should happen: questions and plans read prepared columns, exactly and privately, with the budget of the dataset; mock
datasets have them; a later version has them again.
Should not happen: another user prepares a dataset; a refused preparation leaves anything; a second budget for the same
records.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pygrid.core.datasets import Column, Schema
from pygrid.messages.preparation_text import read_preparation
from pygrid.storage.columns import ColumnFiles, map_columns
from pygrid.tensors import decode
from support.jobs import DATASETS, NUM_RECORDS, POLICY, PRIVATE, Person, Site
from support.web import assert_problem

LEVELS = ["a", "b", "c", "d"]
GENERATOR = np.random.default_rng(5)
KIND = GENERATOR.integers(0, 4, NUM_RECORDS)
AGE = np.where(GENERATOR.random(NUM_RECORDS) < 0.2, np.nan, GENERATOR.uniform(0, 100, NUM_RECORDS).round(1))
CSV = "\n".join(
    ["kind,age,label", *(f"{LEVELS[k]},{'' if np.isnan(a) else a},{k % 3}" for k, a in zip(KIND, AGE, strict=True))]
).encode()
COLUMNS = [
    {"name": "kind", "categories": LEVELS},
    {"name": "age", "min": 0, "max": 100},
    {"name": "label", "meaning": "label 0..2"},
]
BINDING = {"x": "kind_hot", "y": "label"}
PREPARED = {"kind_hot": "kind,one_hot", "age_std": "age,fill=50,standardize", "group": "age,bucketize=18|65"}


def described(texts: dict[str, str]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(read_preparation(name, text)) for name, text in texts.items()]


async def upload(owner: Person, name: str = "kinds", path: str = "", **config: Any) -> dict[str, Any]:
    sent = config if path else {"name": name, "visibility": "listed", "columns": COLUMNS, **config}
    files = {"config": json.dumps(sent).encode(), "data": CSV}
    answer = await owner.call("POST", f"{DATASETS}{path}", files=files)
    assert answer.status_code == 201, answer.text
    info: dict[str, Any] = answer.json()
    return info


async def prepare(owner: Person, dataset: int, texts: dict[str, str], **more: Any) -> Any:
    body = {"columns": described(texts), **more}
    return await owner.call("POST", f"{DATASETS}/{dataset}/prepare", json=body)


def names(info: dict[str, Any]) -> list[str]:
    return [column["name"] for column in info["schema"]["columns"]]


async def test_prepared_columns_feed_questions_and_plans(site: Site) -> None:
    dataset = (await upload(site.owner))["id"]
    await site.owner.set_policy(dataset)
    answer = await prepare(site.owner, dataset, PREPARED, note="prepared")
    assert answer.status_code == 201, answer.text
    info = answer.json()
    assert (info["version"], names(info)) == (2, ["kind", "age", "label", *PREPARED])
    assert info["versions"][0]["note"] == "prepared"
    hot = info["schema"]["columns"][3]
    assert (hot["dtype"], hot["shape"], hot["prepared"]["source"]) == ("uint8", [4], "kind")
    asked = [
        {"kind": "mean", "column": "age_std", "lower": -1, "upper": 1},
        {"kind": "count", "by": "group", "keys": ["<18", "18..65", ">=65"]},
    ]
    job = await site.scientist.submit(dataset, "statistics", statistics=asked)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    await site.owner.approve(await site.owner.wait(job["id"], "held"))
    mean, count = (await site.scientist.result(job["id"])).json()["answers"]
    filled = np.where(np.isnan(AGE), 50, AGE)
    assert mean["value"] == pytest.approx((filled / 50 - 1).mean(), abs=1e-6)
    there = AGE[~np.isnan(AGE)]
    wanted = [(there < 18).sum(), ((there >= 18) & (there < 65)).sum(), (there >= 65).sum()]
    assert [value for _, value in count["groups"]] == wanted
    private = await site.scientist.submit(dataset, "train", binding=BINDING, privacy=PRIVATE)
    released = await site.scientist.wait(private["id"], "released")
    facts = (await site.owner.job(released["id"]))["facts"]
    assert (facts["num_records"], facts["num_zeroed"]) == (NUM_RECORDS, 0)
    job = await site.scientist.submit(dataset, "evaluate", binding=BINDING, privacy=PRIVATE)
    await site.scientist.wait(job["id"], "released")
    refused = await site.scientist.try_submit(dataset, binding={"x": "kind", "y": "label"})
    assert_problem(refused, 400, "invalid_binding")


async def test_later_versions_and_mocks_have_them(site: Site) -> None:
    info = await upload(site.owner, prepare=described(PREPARED))
    dataset = info["id"]
    assert names(info)[3:] == list(PREPARED)
    info = await upload(site.owner, path=f"/{dataset}/versions")
    assert (info["version"], names(info)[3:]) == (2, list(PREPARED))
    info = (await prepare(site.owner, dataset, {"group": "age,bucketize=50"}, remove=["age_std"])).json()
    assert (info["version"], names(info)[3:]) == (3, ["kind_hot", "group"])
    answer = await site.scientist.call("GET", f"{DATASETS}/{dataset}/mock")
    arrays, metadata = decode(answer.content)
    schema = msgspec.json.decode(metadata["schema"], type=Schema)
    assert [column.name for column in schema.columns] == names(info)
    np.testing.assert_array_equal(arrays["kind_hot"], np.eye(4, dtype=np.uint8)[arrays["kind"]])
    assert (arrays["group"] == -1).sum() == np.isnan(arrays["age"]).sum() > 0
    mock = b"kind,age,label\na,,0\nb,60,1\n"
    files = {"config": b"{}", "data": CSV, "mock": mock}
    answer = await site.owner.call("POST", f"{DATASETS}/{dataset}/versions", files=files)
    assert answer.status_code == 201, answer.text
    arrays, _ = decode((await site.scientist.call("GET", f"{DATASETS}/{dataset}/mock")).content)
    assert (arrays["kind_hot"].tolist(), arrays["group"].tolist()) == ([[1, 0, 0, 0], [0, 1, 0, 0]], [-1, 1])
    preview = (await site.owner.call("GET", f"{DATASETS}/{dataset}/preview?num_records=2")).json()["columns"]
    assert preview["kind_hot"] == np.eye(4, dtype=int)[KIND[:2]].tolist()


async def test_refusals_leave_nothing(site: Site) -> None:
    dataset = (await upload(site.owner))["id"]
    for texts, why in (
        ({"new": "age,one_hot"}, "put bucketize"),
        ({"age": "kind,one_hot"}, "has a column of that name"),
        ({"new": "ages,fill=1"}, "no column 'ages'"),
    ):
        problem = assert_problem(await prepare(site.owner, dataset, texts), 400, "invalid_preparation")
        assert why in problem["detail"]
    assert_problem(await prepare(site.owner, dataset, {}), 400, "invalid_preparation")
    assert_problem(await prepare(site.owner, dataset, {}, remove=["age"]), 400, "invalid_preparation")
    assert (await prepare(site.scientist, dataset, PREPARED)).status_code == 403
    assert_problem(await prepare(site.owner, 99, PREPARED), 404, "dataset_not_found")
    body = {"columns": [{"name": "n", "source": "age", "steps": [{"step": "eval", "code": "1"}]}]}
    assert (await site.owner.call("POST", f"{DATASETS}/{dataset}/prepare", json=body)).status_code == 400
    info = (await site.owner.call("GET", f"{DATASETS}/{dataset}")).json()
    assert (info["version"], names(info)) == (1, ["kind", "age", "label"])
    config = {"name": "other", "columns": COLUMNS, "prepare": described({"new": "age,one_hot"})}
    answer = await site.owner.call("POST", DATASETS, files={"config": json.dumps(config).encode(), "data": CSV})
    assert_problem(answer, 400, "invalid_preparation")


async def test_the_same_records_have_one_budget(site: Site) -> None:
    """Prepared columns do not make other content of the records."""
    first = (await upload(site.owner))["id"]
    await site.owner.set_policy(first)
    second = (await upload(site.owner, "again", prepare=described(PREPARED)))["id"]
    answer = await site.owner.call("PUT", f"{DATASETS}/{second}/policy", json=POLICY)
    assert_problem(answer, 409, "content_has_budget")


def test_columns_are_shared_on_the_disk(tmp_path: Path) -> None:
    files = ColumnFiles(tmp_path)
    schema = Schema((Column("a", "float64", min=0.0, max=9.0, has_missing=False),), 3)
    with files.draft() as draft:
        draft.put(schema, {"a": np.arange(3.0)})
        first = files.commit(draft)
    with files.draft() as draft:
        draft.take(files.path(first), schema)
        second = files.commit(draft)
    assert (files.path(first) / "0.bin").stat().st_ino == (files.path(second) / "0.bin").stat().st_ino
    files.drop(first)
    assert map_columns(files.checked_path(second))[1]["a"].tolist() == [0, 1, 2]
