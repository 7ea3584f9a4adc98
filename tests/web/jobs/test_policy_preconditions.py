"""Edits of a policy and of a dataset that name the version they were made on.

Should happen: the ETag of GET is good for one change, also of several at once. Should not happen: a lost edit that was
guarded.
"""

from __future__ import annotations

import asyncio

import pytest

from pygrid.core.preconditions import Precondition, etag_of
from pygrid.errors import PreconditionFailed
from support.jobs import DATASETS, POLICY, Site
from support.web import assert_problem


async def test_a_change_names_the_version_that_was_read(site: Site) -> None:
    path = f"{DATASETS}/{await site.owner.upload()}/policy"

    async def put(epsilon: float, **headers: str):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return await site.web.put(path, json={**POLICY, "epsilon": epsilon}, headers={**site.owner.headers, **headers})

    assert_problem(await put(8.0, If_Match="*"), 412, "precondition_failed")
    first = await put(8.0, If_None_Match="*")
    assert first.status_code == 200
    assert_problem(await put(9.0, If_None_Match="*"), 412, "precondition_failed")
    read = await site.owner.call("GET", path)
    assert read.headers["etag"] == first.headers["etag"]
    answers = await asyncio.gather(*(put(10.0 + number, If_Match=read.headers["etag"]) for number in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]
    won = next(answer for answer in answers if answer.status_code == 200)
    now_is = await site.owner.call("GET", path)
    assert (now_is.content, now_is.headers["etag"]) == (won.content, won.headers["etag"])
    assert_problem(await put(8.0, If_Match="W/" + won.headers["etag"]), 412, "precondition_failed")
    assert (await put(20.0, If_Match=f'"other", {won.headers["etag"]}')).status_code == 200
    assert (await put(21.0, If_Match="*")).status_code == 200
    assert (await put(22.0)).status_code == 200, "without a header it is set whatever it was"


async def test_a_dataset_is_changed_and_deleted_as_it_was_read(site: Site) -> None:
    path = f"{DATASETS}/{await site.owner.upload()}"

    async def change(description: str, etag: str):
        headers = {**site.owner.headers, "If-Match": etag}
        return await site.web.put(path, json={"description": description}, headers=headers)

    read = await site.owner.call("GET", path)
    by_name = await site.owner.call("GET", f"{DATASETS}/by-name", params={"name": "points"})
    assert by_name.headers["etag"] == read.headers["etag"]
    assert "etag" not in (await site.owner.call("GET", path, params={"version": 1})).headers
    answers = await asyncio.gather(*(change(f"text {number}", read.headers["etag"]) for number in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]
    won = next(answer for answer in answers if answer.status_code == 200)
    now_is = await site.owner.call("GET", path)
    assert (now_is.headers["etag"], now_is.json()) == (won.headers["etag"], won.json())
    deletion = {"headers": {**site.owner.headers, "If-Match": read.headers["etag"]}}
    assert_problem(await site.web.delete(path, **deletion), 412, "precondition_failed")
    assert_problem(
        await site.web.delete(path, headers={**site.scientist.headers, "If-Match": '"0"'}), 403, "not_permitted"
    )
    assert (await change("last", won.headers["etag"])).status_code == 200
    assert (await site.owner.call("PUT", path, json={"description": "whatever it was"})).status_code == 200
    deletion["headers"]["If-Match"] = (await site.owner.call("GET", path)).headers["etag"]
    assert (await site.web.delete(path, **deletion)).status_code == 204


async def test_who_may_not_change_it_learns_nothing_of_the_version(site: Site) -> None:
    path = f"{DATASETS}/{await site.owner.upload()}/policy"
    headers = {**site.scientist.headers, "If-Match": '"0"'}
    answer = await site.web.put(path, json=POLICY, headers=headers)
    assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    ("if_match", "current", "is_good"),
    [
        (None, None, True),
        (None, "a", True),
        ("*", None, False),
        ("*", "a", True),
        (etag_of("a"), "a", True),
        (etag_of("a"), "b", False),
        (etag_of("a"), None, False),
        (f"{etag_of('b')},{etag_of('a')}", "a", True),
        ("", "a", False),
        (etag_of("a").strip('"'), "a", False),
    ],
)
def test_which_versions_are_meant(if_match: str | None, current: str | None, is_good: bool) -> None:
    if is_good:
        Precondition(if_match).check(current)
    else:
        with pytest.raises(PreconditionFailed):
            Precondition(if_match).check(current)
