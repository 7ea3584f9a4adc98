"""Jobs on dates, datetimes, categories and truth values, exact and private, over HTTP.

Should happen: a plan gets the codes of declared categories; answers of statistics are those of pandas, private ones
within their noise; bounds, edges and keys of dates are texts.
Should not happen: a group has a record of another; a missing value is counted; found levels reach the scientist.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from support.jobs import PRIVATE, Site
from support.web import assert_problem

LINES = [
    f"{'' if n % 10 == 3 else f'20{18 + n % 4}-{1 + n % 12:02}-15'},{'' if n % 7 == 0 else 'mf'[n % 2]},"
    f"{'yes' if n % 3 else 'no'},2020-01-01T{n % 24:02}:00:00Z"
    for n in range(600)
]
CSV = "\n".join(["visit,sex,smokes,seen", *LINES]).encode()
COLUMNS = [
    {"name": "visit", "dtype": "date", "min": "2018-01-01", "max": "2021-12-31"},
    {"name": "sex", "categories": ["f", "m"]},
    {"name": "smokes", "dtype": "bool"},
    {"name": "seen", "dtype": "datetime"},
]
ASKED: list[dict[str, Any]] = [
    {"kind": "mean", "column": "visit", "lower": "2018-01-01", "upper": "2021-12-31"},
    {"kind": "count", "by": "visit", "per": "year", "keys": [2018, 2019, 2020, 2021]},
    {"kind": "count", "by": "visit", "per": "month", "keys": ["2018-01", "2018-05", "2018-02"]},
    {"kind": "count", "by": "visit", "keys": ["2018-01-15"]},
    {"kind": "count", "by": "sex", "keys": ["m", "f"]},
    {"kind": "count", "column": "sex"},
    {"kind": "mean", "column": "smokes", "lower": 0, "upper": 1},
    {"kind": "quantile", "column": "seen", "edges": ["2020-01-01T06:30:00", "2020-01-01T11:00:00Z", "2020-01-02"]},
    {"kind": "histogram", "column": "visit", "edges": ["2018-01-01", "2019-06-01", "2022-01-01"]},
    {"kind": "count", "by": "seen", "per": "year", "keys": ["2019", "2020"]},
]


async def upload(site: Site) -> int:
    files = {
        "config": json.dumps({"name": "visits", "visibility": "listed", "columns": COLUMNS}).encode(),
        "data": CSV,
    }
    answer = await site.owner.call("POST", "/data-centric/datasets", files=files)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def expected() -> list[Any]:
    rows = [line.split(",") for line in LINES]
    days = np.array([row[0] or "NaT" for row in rows], "datetime64[D]")
    there = days[~np.isnat(days)]
    sexes = [row[1] for row in rows]
    return [
        there.astype(int).mean(),
        [int((there.astype("M8[Y]").astype(int) + 1970 == year).sum()) for year in (2018, 2019, 2020, 2021)],
        [int((there.astype("M8[M]") == np.datetime64(month)).sum()) for month in ("2018-01", "2018-05", "2018-02")],
        [int((there == np.datetime64("2018-01-15")).sum())],
        [sexes.count("m"), sexes.count("f")],
        600 - sexes.count(""),
        np.mean([row[2] == "yes" for row in rows]),
        np.datetime64("2020-01-01T11:00:00", "us").astype(int),
        [int((there < np.datetime64("2019-06-01")).sum()), int((there >= np.datetime64("2019-06-01")).sum())],
        [0, 600],
    ]


def values_of(answers: list[dict[str, Any]]) -> list[Any]:
    return [answer["value"] if "value" in answer else [value for _, value in answer["groups"]] for answer in answers]


async def test_exact_answers_are_those_of_the_file(site: Site) -> None:
    dataset = await upload(site)
    await site.owner.set_policy(dataset)
    job = await site.scientist.submit(dataset, "statistics", statistics=ASKED)
    await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
    await site.owner.approve(await site.owner.wait(job["id"], "held"))
    answers = (await site.scientist.result(job["id"])).json()["answers"]
    for found, wanted in zip(values_of(answers), expected(), strict=True):
        assert found == pytest.approx(wanted)
    assert answers[2]["groups"][0][0] == "2018-01"


async def test_private_answers_are_within_their_noise(site: Site) -> None:
    dataset = await upload(site)
    await site.owner.set_policy(dataset)
    few = [ASKED[1], ASKED[4], ASKED[5]]
    job = await site.scientist.submit(dataset, "statistics", statistics=few, privacy=PRIVATE)
    await site.scientist.wait(job["id"], "released")
    answers = (await site.scientist.result(job["id"])).json()["answers"]
    wanted = expected()
    for answer, values in zip(answers, (wanted[1], wanted[4], wanted[5]), strict=True):
        found = np.atleast_1d(values_of([answer])[0])
        assert (np.abs(found - np.atleast_1d(values)) < 6 * answer["noise_std"]).all()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"kind": "mean", "column": "visit", "lower": "soon", "upper": "2021-12-31"}, "invalid_statistic"),
        ({"kind": "mean", "column": "visit"}, "invalid_job"),
        ({"kind": "mean", "column": "sex", "lower": 0, "upper": 1}, "invalid_statistic"),
        ({"kind": "mean", "column": "smokes", "lower": "2020-01-01", "upper": 1}, "invalid_statistic"),
        ({"kind": "count", "by": "visit", "keys": [2018]}, "invalid_statistic"),
        ({"kind": "count", "by": "visit", "per": "month", "keys": ["2018-13"]}, "invalid_statistic"),
        ({"kind": "count", "by": "visit", "per": "year", "keys": [2018, "2018"]}, "invalid_job"),
        ({"kind": "count", "by": "visit", "per": "year", "keys": [1999]}, "unknown_key"),
        ({"kind": "count", "by": "seen", "keys": ["2020-01-01"]}, "invalid_statistic"),
        ({"kind": "count", "by": "sex", "per": "year", "keys": ["f"]}, "invalid_statistic"),
        ({"kind": "count", "by": "sex", "keys": ["x"]}, "unknown_key"),
    ],
)
async def test_a_question_that_does_not_fit_is_refused(site: Site, asked: dict[str, Any], code: str) -> None:
    dataset = await upload(site)
    await site.owner.set_policy(dataset)
    assert_problem(await site.scientist.try_submit(dataset, "statistics", statistics=[asked]), 400, code)


# -- Plans -------------------------------------------------------------------------------------------------------------


async def upload_flowers(site: Site, kind: dict[str, Any], lines: list[str] | None = None) -> int:
    """A table with four features and a column ``kind`` of the declared type."""
    texts = lines or ["abc"[n % 3] for n in range(40)]
    rows = [f"{n},{n % 5},{n % 7},1.5,{text}" for n, text in enumerate(texts)]
    columns = [{"name": "features", "dtype": "float32", "source": ["f*"]}, {"name": "kind", **kind}]
    files = {
        "config": json.dumps({"name": "flowers", "visibility": "listed", "columns": columns}).encode(),
        "data": "\n".join(["f0,f1,f2,f3,kind", *rows]).encode(),
    }
    answer = await site.owner.call("POST", "/data-centric/datasets", files=files)
    assert answer.status_code == 201, answer.text
    dataset = int(answer.json()["id"])
    await site.owner.set_policy(dataset)
    return dataset


LEVELS = {"categories": ["a", "b", "c"]}
BOUND = {"x": "features", "y": "kind"}


async def test_a_category_feeds_a_label_by_its_codes(site: Site) -> None:
    """The same evaluation as with the codes in the file, exact and private."""
    answers = []
    for kind, lines in ((LEVELS, None), ({"dtype": "int32", "meaning": "label 0..2"}, [str(n % 3) for n in range(40)])):
        dataset = await upload_flowers(site, kind, lines)
        job = await site.scientist.submit(dataset, "evaluate", binding=BOUND)
        await site.owner.approve(await site.owner.wait(job["id"], "waiting"))
        await site.owner.approve(await site.owner.wait(job["id"], "held"))
        answers.append((await site.scientist.result(job["id"])).json())
        private = await site.scientist.submit(dataset, "train", binding=BOUND, privacy=PRIVATE, batch_size=20)
        await site.scientist.wait(private["id"], "released")
        await site.owner.call("DELETE", f"/data-centric/datasets/{dataset}")
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("kind", "lines", "code"),
    [
        ({"dtype": "category"}, None, "invalid_binding"),
        ({"categories": ["a", "b", "c", "d"]}, None, "invalid_binding"),
        (LEVELS, ["a", "", "b"], "missing_values"),
        ({"dtype": "date"}, ["2020-01-01", "2020-01-02"], "invalid_binding"),
        ({"dtype": "datetime"}, ["2020-01-01", "2020-01-02"], "invalid_binding"),
    ],
)
async def test_a_column_that_is_no_label_is_refused(site: Site, kind: Any, lines: Any, code: str) -> None:
    dataset = await upload_flowers(site, kind, lines)
    for privacy in ({}, {"privacy": PRIVATE}):
        answer = await site.scientist.try_submit(dataset, "train", binding=BOUND, **privacy)
        assert_problem(answer, 400, code)
