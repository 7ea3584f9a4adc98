"""Searches at a Network with real Domains, over real sockets.

Should happen: what Domains publish is found, and a change is found by the very next search; a Domain that is gone is
named. Should not happen: what is not public shows; a search that is too large, too deep or no search harms anybody; a
caller searches without end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pygrid.features.catalog.service import CatalogService
from pygrid.web.services import service
from support.discovery import Holder
from support.search import Site, running_network
from support.web import assert_problem


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_network(tmp_path) as site:
        yield site


async def test_three_domains_are_searched_at_once(site: Site) -> None:
    one, two, three = [await site.add(name) for name in ("one", "two", "three")]
    await one.holder.upload("people", tags=["census"])
    await two.holder.upload("people", tags=["census", "eu"])
    await two.holder.serve("people-model")
    await three.holder.host("people-process")
    await three.holder.upload("secret people", visibility="private", tags=["census"])
    await three.holder.upload("listed people", visibility="listed", tags=["census"])
    assert await site.found(text="people") == [
        ("one", "people"),
        ("three", "people-process"),
        ("two", "people"),
        ("two", "people-model"),
    ]
    assert await site.found(tags=["CENSUS", "eu"]) == [("two", "people")]
    answer = await site.search(text="people", kinds=["dataset"])
    assert (answer["missing"], answer["num_domains"], answer["more"]) == ([], 3, False)
    where = {hit["domain"]["name"]: hit["domain"] for hit in answer["datasets"]}
    assert where["one"]["address"] == one.served.url
    assert where["one"]["identity"].startswith("ed25519:")
    await three.served.stop()
    await site.until("three", "offline")
    answer = await site.search(text="people")
    assert answer["missing"] == [{"domain": "three", "reason": "offline"}]
    assert await site.found(text="people") == [("one", "people"), ("two", "people"), ("two", "people-model")]


async def test_a_change_is_found_by_the_next_search(site: Site) -> None:
    one = await site.add("one")
    dataset = await one.holder.upload("people", tags=["a"])
    for turn in range(20):
        assert await site.found(tags=["a"]) == [("one", "people")]
        await one.holder.change(dataset, tags=["b"])
        assert await site.found(tags=["a"]) == [], turn
        assert await site.found(tags=["b"]) == [("one", "people")]
        await one.holder.change(dataset, visibility="private")
        assert await site.found() == [], turn
        await one.holder.change(dataset, visibility="public", tags=["a"])
    await one.holder.delete(f"datasets/{dataset['id']}")
    assert await site.found() == []


async def test_what_is_remembered_is_not_asked_again(site: Site) -> None:
    one = await site.add("one")
    await one.holder.upload("people")
    asked: list[Any] = []
    catalog = service(one.app.state, CatalogService)
    search = catalog.search

    async def counted(query: Any) -> Any:
        asked.append(query)
        return await search(query)

    catalog.search = counted
    for text in ("people", "People", " people  "):
        assert await site.found(text=text) == [("one", "people")]
    assert len(asked) == 1


async def test_what_changes_while_a_domain_is_away_is_known_when_it_is_back(site: Site) -> None:
    one = await site.add("one")
    dataset = await one.holder.upload("people")
    assert await site.found() == [("one", "people")]
    await one.served.stop()
    await site.until("one", "offline")
    assert await site.found() == []
    # As if its owner had changed it while the Network could not be reached.
    apart = await site.start("one", network="", invitation="")
    await Holder(apart.web, one.holder.headers).change(dataset, visibility="private")
    await apart.stop()
    await site.add("one", owner=one.holder.headers)
    assert await site.found() == []


async def test_a_domain_behind_the_relay_has_an_address_there(site: Site) -> None:
    one = await site.add("one", direct=False)
    await one.holder.upload("people")
    (hit,) = (await site.search())["datasets"]
    assert hit["domain"]["address"] == f"grid+{site.url}/one"


async def test_the_operator_says_where_the_network_is_reached(tmp_path: Path) -> None:
    async with running_network(tmp_path, address="https://network.example/") as site:
        one = await site.add("one", direct=False)
        await one.holder.upload("people")
        (hit,) = (await site.search())["datasets"]
        assert hit["domain"]["address"] == "grid+https://network.example/one"
        assert (await site.web.get("/choose-model-host")).json() == [["one", "grid+https://network.example/one"]]


async def test_people_search_by_an_address(site: Site) -> None:
    one = await site.add("one")
    await one.holder.upload(
        "people", tags=["a", "b"], columns=[{"name": "age", "dtype": "int32", "meaning": "years lived"}]
    )
    query = "q=People&tag=a&tag=B&column=age&dtype=int32&meaning=lived&kind=dataset&timeout_s=2"
    answer = await site.web.get(f"/network/search?{query}")
    assert [hit["name"] for hit in answer.json()["datasets"]] == ["people"], answer.text
    assert not (await site.web.get("/network/search?q=people&tag=c")).json()["datasets"]
    for wrong in ("kind=user", "dtype=object", "timeout_s=0", "timeout_s=nan", "q=" + "x" * 1001, "q=%00", "tag="):
        assert (await site.web.get(f"/network/search?{wrong}")).status_code == 400, wrong


WRONG_OR_ODD: list[tuple[bytes, int]] = [
    (b"x" * 1_000_000, 413),
    (b'{"text": "' + b"x" * 1_000_000 + b'"}', 413),
    (b'{"text": ' + b"[" * 20_000, 400),
    (b'{"tags": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}", 400),
    (b'{"text": "a\\u0000b"}', 400),
    (b'{"text": "' + b"a " * 30 + b'"}', 200),
    (b'{"text": "' + " ".join(f"w{number}" for number in range(30)).encode() + b'"}', 400),
    (b'{"text": "(a+)+$"}', 200),
    (b'{"text": "%_\\\\"}', 200),
    (b'{"tags": ["' + b"x" * 51 + b'"]}', 400),
    (b'{"timeout_s": 1e9}', 400),
    (b'{"timeout_s": -1}', 400),
    (b'{"kinds": ["user"]}', 400),
    (b'{"unknown": 1}', 400),
    (b"[]", 400),
    (b"", 400),
    (b"\xff", 400),
]


async def test_wrong_searches_are_refused(site: Site) -> None:
    one = await site.add("one")
    await one.holder.upload("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", description="%")
    for body, status in WRONG_OR_ODD:
        answer = await site.web.post("/network/search", content=body)
        assert answer.status_code == status, (body[:100], answer.text)
        if status == 200:
            found = [hit["name"] for hit in answer.json()["datasets"]]
            assert len(found) == (1 if body.startswith(b'{"text": "a a') else 0), body
        else:
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_caller_searches_so_often_and_no_more(site: Site) -> None:
    for _ in range(120):
        assert (await site.web.get("/network/search")).status_code == 200
    problem = assert_problem(await site.web.get("/network/search"), 429, "too_many_attempts")
    # Slots of the window end together, up to a twelfth of it later.
    assert 0 < problem["retry_after_s"] <= 65
    assert_problem(await site.web.post("/search", json={"query": []}), 429, "too_many_attempts")
    # Who is logged in is counted by their account.
    assert (await site.web.get("/network/search", headers=site.owner)).status_code == 200


async def test_a_token_that_is_not_good_is_refused(site: Site) -> None:
    answer = await site.web.get("/network/search", headers={"Authorization": "Bearer nonsense"})
    assert_problem(answer, 401, "invalid_credentials")


async def test_the_published_routes(site: Site) -> None:
    one, two = await site.add("one"), await site.add("two", direct=False)
    await one.holder.upload("people", tags=["Census", "eu"])
    await one.holder.upload("hidden", tags=["hidden"], visibility="listed")
    await two.holder.upload("people", tags=["us"])
    await two.holder.serve("digits")
    await two.holder.serve("hidden", visibility="listed")
    here, there = ["one", one.served.url], ["two", f"grid+{site.url}/two"]

    async def get(path: str) -> Any:
        answer = await site.web.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(path: str, body: Any) -> Any:
        answer = await site.web.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert await get("/choose-model-host?model_id=digits") == [there]
    (chosen,) = await get("/choose-model-host")
    assert chosen in (here, there)
    (chosen,) = await get("/choose-model-host?model_id=unknown")
    assert chosen in (here, there)
    assert await post("/search-model", {"model_id": "digits"}) == [there]
    assert await post("/search-model", {"model_id": "hidden"}) == []
    assert await post("/search-encrypted-model", {"model_id": "digits"}) == {}
    assert await get("/search-available-models") == ["digits"]
    assert await get("/search-available-tags") == ["Census", "eu", "us"]
    assert await post("/search", {"query": ["census"]}) == [here]
    assert await post("/search", {"query": ["US", "eu"]}) == [here, there]
    assert await post("/search", {"query": ["hidden"]}) == []
    assert await post("/search", {"query": []}) == []
    assert await get("/models") == {"models": ["digits"]}
    assert await get("/datasets") == {"datasets": ["people"]}
    answer = await site.web.get("/choose-encrypted-model-host")
    assert (answer.status_code, answer.json()) == (400, [])
    for path in ("/search", "/search-model", "/search-encrypted-model"):
        for body in (b"", b"{}", b"[", b'{"query": "x", "model_id": 5}'):
            answer = await site.web.post(path, content=body)
            assert answer.status_code == 400, (path, body, answer.text)
            assert answer.json()["message"] == "Invalid JSON format."


async def test_a_search_without_domains_finds_nothing(site: Site) -> None:
    assert await site.search() == {
        "datasets": [],
        "models": [],
        "processes": [],
        "missing": [],
        "num_domains": 0,
        "more": False,
    }
    assert_problem(await site.web.post("/search", json={}), 400, "missing_field")
