"""A search over Domains that answer, and over Domains that do not as they should.

Should happen: what came in time is answered, best first, and who is missing is named with the reason; the same question
to the same version of a Domain is asked once.
Should not happen: one Domain's fault spoils the others' answers; an answer outlives the version that it was given for;
memory grows with what strangers ask or answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pygrid.features.discovery.fanout import MAX_OPEN, Fanout
from pygrid.features.discovery.service import DiscoveryService
from pygrid.messages.discovery import CatalogAnswer, Missing, SearchAnswer, SearchQuery
from pygrid.metrics import Metrics
from support.eventually import eventually, turns
from support.fleet import Domain, answering, dataset, linked

URL = "http://network:7000/"


async def find(service: DiscoveryService, timeout_s: float = 5.0, **query: Any) -> SearchAnswer:
    async with asyncio.timeout(60):
        return await service.search(SearchQuery(**query), timeout_s, URL)


def found(answer: SearchAnswer) -> list[tuple[str, str]]:
    return [(hit.domain.name, hit.name) for hit in answer.datasets]


async def test_all_are_asked_and_the_best_comes_first() -> None:
    one = Domain("one", answering(dataset("all people"), dataset("x", tags=["people"])))
    two = Domain("two", answering(dataset("people")))
    two.address = "https://two.example"
    async with linked(one, two) as fleet:
        service = DiscoveryService(fleet, 1)
        answer = await find(service, text="People")
    assert found(answer) == [("two", "people"), ("one", "all people"), ("one", "x")]
    assert (answer.missing, answer.num_domains, answer.more) == ((), 2, False)
    assert [hit.domain.address for hit in answer.datasets[:2]] == [
        "https://two.example",
        "grid+http://network:7000/one",
    ]
    assert answer.datasets[0].domain.identity == two.identity
    assert one.asked == two.asked == [{"text": "people"}]


async def test_one_that_is_slow_is_named_and_its_answer_serves_the_next() -> None:
    go = asyncio.Event()

    async def late(_payload: dict[str, Any]) -> dict[str, Any]:
        await go.wait()
        return {"version": "v1", "datasets": [dataset("late")]}

    slow, quick = Domain("slow", late), Domain("quick", answering(dataset()))
    async with linked(slow, quick) as fleet:
        service = DiscoveryService(fleet, 1)
        answer = await find(service, timeout_s=0.05)
        assert found(answer) == [("quick", "people")]
        assert answer.missing == (Missing("slow", "timeout"),)
        go.set()
        answer = await find(service)
        assert found(answer) == [("slow", "late"), ("quick", "people")]
        assert len(slow.asked) == len(quick.asked) == 1


async def test_one_that_is_gone_is_named() -> None:
    dead, offline, well = Domain("dead"), Domain("offline"), Domain("well", answering(dataset()))
    offline.state = "offline"
    async with linked(dead, offline, well) as fleet:
        service = DiscoveryService(fleet, 1)
        await dead.die()
        answer = await find(service)
    assert found(answer) == [("well", "people")]
    assert answer.missing == (Missing("dead", "offline"), Missing("offline", "offline"))
    assert not offline.asked


LIES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a wrong type": {"version": "v1", "datasets": "all"},
    "a number for a name": {"version": "v1", "datasets": [dataset(5)]},  # type: ignore[arg-type]
    "a long name": {"version": "v1", "datasets": [dataset("x" * 101)]},
    "a long version": {"version": "v" * 101},
    "negative counts": {"version": "v1", "datasets": [dataset(num_records=-1)]},
    "huge counts": {"version": "v1", "datasets": [dataset(num_records=2**70)]},
    "too many": {"version": "v1", "datasets": [dataset()] * 101},
    "too much": {"version": "v1", "datasets": [dataset(tags=["x" * 50] * 50, description="x" * 500)] * 100},
    "a megabyte": {"version": "v1", "datasets": [dataset(description="x" * 900_000)]},
    "a megabyte beside it": {"version": "v1", "nonsense": "x" * 900_000, "datasets": "none"},
    "colours": {"version": "v1", "datasets": [dataset("\x1b[31mred")]},
    "a reversed name": {"version": "v1", "datasets": [dataset("gpj.\u202eexe")]},
    "a bell in a description": {"version": "v1", "datasets": [dataset(description="\a")]},
    "a hash that is none": {
        "version": "v1",
        "models": [
            {
                "id": "m",
                "description": "",
                "inputs": [],
                "outputs": [],
                "allow_download": True,
                "allow_remote_inference": True,
                "num_parameters": 1,
                "size_bytes": 1,
                "sha256": "../../etc/passwd",
            }
        ],
    },
    "a state that is none": {
        "version": "v1",
        "processes": [
            {"name": "p", "version": "1", "state": "won", "num_parameters": 1, "created_at": "2026-01-01T00:00:00Z"}
        ],
    },
}


@pytest.mark.parametrize("lie", LIES)
async def test_one_that_lies_is_named(lie: str) -> None:
    async def answer(_payload: dict[str, Any]) -> dict[str, Any]:
        return LIES[lie]

    liar, honest = Domain("liar", answer), Domain("honest", answering(dataset()))
    async with linked(liar, honest) as fleet:
        service = DiscoveryService(fleet, 1)
        for _ in range(2):
            answer_now = await find(service)
            assert found(answer_now) == [("honest", "people")]
            assert answer_now.missing == (Missing("liar", "error"),)
    assert (len(liar.asked), len(honest.asked)) == (2, 1)


async def test_one_that_fails_is_named() -> None:
    async def fail(_payload: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("no")

    async with linked(Domain("broken", fail)) as fleet:
        answer = await find(DiscoveryService(fleet, 1))
    assert answer.missing == (Missing("broken", "error"),)


async def test_one_that_breaks_the_protocol_loses_its_link_and_no_other() -> None:
    """A frame that is nested too deep can't be read, so nobody knows which question it answers."""
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    nested, honest = Domain("nested", answering(deep)), Domain("honest", answering(dataset()))
    async with linked(nested, honest) as fleet:
        answer = await find(DiscoveryService(fleet, 1))
    assert found(answer) == [("honest", "people")]
    assert answer.missing == (Missing("nested", "offline"),)


async def test_the_same_question_is_asked_once_for_each_version() -> None:
    domain = Domain("one", answering(dataset("old")))
    async with linked(domain) as fleet:
        service = DiscoveryService(fleet, 1)
        for text in ("people", "PEOPLE ", "people people"):
            assert found(await find(service, text=text)) == [("one", "old")]
        assert len(domain.asked) == 1
        await find(service, text="people", tags=("x",))
        assert len(domain.asked) == 2
        domain.search, domain.catalog = answering(dataset("new"), version="v2"), "v2"
        assert found(await find(service, text="people")) == [("one", "new")]
        assert len(domain.asked) == 3
        domain.state = "offline"
        assert found(await find(service, text="people")) == []
        domain.state, domain.catalog = "degraded", "v2"
        answer = await find(service, text="people")
        assert [hit.domain.state for hit in answer.datasets] == ["degraded"]
        assert len(domain.asked) == 3


async def test_an_answer_is_kept_under_the_version_that_it_has() -> None:
    """The Domain changes while it is asked: its answer is not taken for one of the version that the Network
    knows next.
    """
    domain = Domain("one", answering(dataset("old"), version="v1"))
    async with linked(domain) as fleet:
        service = DiscoveryService(fleet, 1)
        domain.catalog = "v2"
        await find(service)
        domain.search = answering(dataset("new"), version="v2")
        assert found(await find(service)) == [("one", "new")]


async def test_nothing_is_kept_of_one_that_tells_no_version() -> None:
    domain = Domain("one", answering(dataset(), version=""))
    domain.catalog = ""
    async with linked(domain) as fleet:
        service = DiscoveryService(fleet, 1)
        await asyncio.gather(find(service), find(service))
        await find(service)
    assert len(domain.asked) == 3


async def test_many_who_ask_the_same_at_once_are_one_question() -> None:
    go = asyncio.Event()

    async def wait(_payload: dict[str, Any]) -> dict[str, Any]:
        await go.wait()
        return {"version": "v1", "datasets": [dataset()]}

    domain = Domain("one", wait)
    async with linked(domain) as fleet:
        service = DiscoveryService(fleet, 1)
        searches = [asyncio.create_task(find(service)) for _ in range(100)]
        await eventually(lambda: domain.asked)
        go.set()
        answers = await asyncio.gather(*searches)
        assert {tuple(found(answer)) for answer in answers} == {(("one", "people"),)}
        assert len(domain.asked) == 1


async def test_one_that_never_answers_holds_few_questions() -> None:
    async def never(_payload: dict[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    domain = Domain("one", never)
    async with linked(domain) as fleet:
        service = DiscoveryService(fleet, 1)
        for number in range(MAX_OPEN + 20):
            answer = await find(service, timeout_s=0.001, text=str(number))
            assert answer.missing == (Missing("one", "timeout"),)
        await turns()
        assert len(domain.asked) <= MAX_OPEN
        await service.close()


async def test_what_is_remembered_is_bounded() -> None:
    domain = Domain("one", answering(dataset(description="x" * 500)))
    async with linked(domain) as fleet:
        fanout = Fanout(max_cache_bytes=5_000)
        for number in range(20):
            await fanout.query_all(fleet.members(), "search", {"text": str(number)}, CatalogAnswer, 5.0)
        assert len(domain.asked) == 20
        await fanout.query_all(fleet.members(), "search", {"text": "19"}, CatalogAnswer, 5.0)
        assert len(domain.asked) == 20
        await fanout.query_all(fleet.members(), "search", {"text": "0"}, CatalogAnswer, 5.0)
        assert len(domain.asked) == 21


async def test_what_became_of_each_is_counted() -> None:
    metrics = Metrics()
    one, gone = Domain("one", answering(dataset())), Domain("gone")
    gone.state = "offline"
    async with linked(one, gone) as fleet:
        service = DiscoveryService(fleet, 1, Fanout(metrics))
        await find(service)
        await find(service)
    counted = metrics.render().decode()
    for outcome, count in (("answered", 1), ("remembered", 1), ("offline", 2)):
        assert f'pygrid_network_asked_total{{outcome="{outcome}"}} {count}.0' in counted


async def test_an_answer_has_bounds_too() -> None:
    many = [dataset(f"d{number}", description="x" * 400) for number in range(100)]
    domains = [Domain(f"domain-{number}", answering(*many)) for number in range(12)]
    async with linked(*domains) as fleet:
        answer = await find(DiscoveryService(fleet, 1))
    assert (len(answer.datasets), answer.more) == (1000, True)


async def test_that_a_domain_has_more_is_told() -> None:
    async with linked(Domain("one", answering(dataset(), more=True))) as fleet:
        assert (await find(DiscoveryService(fleet, 1))).more


async def summary(_payload: dict[str, Any]) -> dict[str, Any]:
    return {"version": "v1", "models": ["digits"], "tags": ["EU"]}


async def test_hosts_of_a_model() -> None:
    hosting, other, third = Domain("hosting", summary=summary), Domain("other"), Domain("third")
    third.state = "offline"
    async with linked(hosting, other, third) as fleet:
        service = DiscoveryService(fleet, 2)
        assert [member.name for member in await service.find_hosts("digits")] == ["hosting"]
        assert await service.find_hosts("dig") == []
        assert [member.name for member in await service.choose_hosts("digits")] == ["hosting"]
        for model_id in (None, "unknown"):
            assert {member.name for member in await service.choose_hosts(model_id)} == {"hosting", "other"}
        assert service.choose_shareholders() == []
        assert len(DiscoveryService(fleet, 1).draw_online(1)) == 1


async def test_shares_need_four_for_each_replica() -> None:
    domains = [Domain(f"domain-{number}") for number in range(9)]
    async with linked(*domains) as fleet:
        chosen = DiscoveryService(fleet, 2).choose_shareholders()
        assert len({member.name for member in chosen}) == 8
        assert DiscoveryService(fleet, 3).choose_shareholders() == []
