"""Nodes of 2020, asked by their own routes over a real socket.

Should happen: their tags and models are found among those of Domains.
Should not happen: an address that leads where it must not is called; what a node answers in place of an answer breaks
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pygrid.errors import InvalidInput
from pygrid.features.discovery.service import DiscoveryService
from pygrid.legacy.node_search import LegacyNode
from pygrid.messages.discovery import Missing, SearchAnswer, SearchQuery

MODELS: dict[str, Any] = {"success": True, "models": ["digits", "mnist-cnn"]}
TAGS = ["#mnist", "#Training", "eu"]


@dataclass
class Node:
    name: str
    address: str
    state: str = "online"
    identity: str = ""
    catalog: str = ""
    paths: list[str] = field(default_factory=list)

    async def request(self, type: str, payload: Any, timeout_s: float) -> dict[str, Any]:
        raise AssertionError("it has no link")


class Fleet:
    def __init__(self, *nodes: Node, allow_private: bool = True) -> None:
        self._nodes = [LegacyNode(node, allow_private=allow_private) for node in nodes]

    def members(self) -> list[LegacyNode]:
        return self._nodes


@asynccontextmanager
async def node(
    models: Any = MODELS, tags: Any = TAGS, status: str = "200 OK", silent: bool = False
) -> AsyncIterator[Node]:
    """A node that answers, one request for each connection; a silent one waits until it is left."""
    found = Node("old", "")
    answering: set[asyncio.Task[Any] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        # Whoever asks may leave at any moment.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            found.paths.append(path)
            if silent:
                await reader.read()
            else:
                content = models if path == "/data-centric/models/" else tags
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
                )
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        found.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield found
    await asyncio.gather(*(task for task in answering if task is not None))


async def find(fleet: Fleet, timeout_s: float = 5.0, **query: Any) -> SearchAnswer:
    service = DiscoveryService(fleet, 1)
    async with asyncio.timeout(60):
        answer = await service.search(SearchQuery(**query), timeout_s, "http://network:7000")
    await service.close()
    return answer


async def test_its_models_and_tags_are_found() -> None:
    async with node() as old:
        fleet = Fleet(old)
        answer = await find(fleet)
        assert [hit.id for hit in answer.models] == ["digits", "mnist-cnn"]
        assert answer.models[0].domain.address == old.address
        assert [hit.tags for hit in answer.datasets] == [TAGS]
        assert [hit.id for hit in (await find(fleet, model="digits")).models] == ["digits"]
        assert [hit.id for hit in (await find(fleet, text="MNIST")).models] == ["mnist-cnn"]
        (data,) = (await find(fleet, tags=("#TRAINING", "eu"))).datasets
        assert data.tags[:2] == ["#Training", "eu"]
        assert not (await find(fleet, tags=("#training", "us"))).datasets
        assert not (await find(fleet, text="train us")).datasets
        for query in ({"column": "age"}, {"dtype": "int32"}, {"meaning": "x"}, {"kinds": ("process",)}):
            answer = await find(fleet, **query)
            assert (answer.datasets, answer.models, answer.missing) == ((), (), ())


async def test_it_is_asked_only_for_what_can_fit() -> None:
    async with node() as old:
        await find(Fleet(old), kinds=("model",))
        assert old.paths == ["/data-centric/models/"]


async def test_published_questions_reach_it() -> None:
    async with node() as old:
        service = DiscoveryService(Fleet(old), 1)
        assert [member.name for member in await service.find_hosts("digits")] == ["old"]
        assert await service.find_hosts("other") == []
        assert [summary.tags for _, summary in (await service.summaries()).answers] == [TAGS]


async def test_the_deadline_holds_for_it_too() -> None:
    async with node(silent=True) as old:
        assert (await find(Fleet(old), timeout_s=0.05)).missing == (Missing("old", "timeout"),)


async def test_one_that_is_gone_is_named() -> None:
    async with node() as old:
        pass
    assert (await find(Fleet(old))).missing == (Missing("old", "offline"),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": b"<html>"},
        {"models": {"success": False}},
        {"tags": {"tags": []}},
        {"tags": [1, 2]},
        {"tags": b"[" * 100_000},
        {"models": b"x" * 100_000},
        {"tags": b"\xff\xfe"},
        {"status": "500 Internal Server Error"},
        {"status": "302 Found"},
        {"models": {"models": ["x" * 101]}},
        {"models": {"models": [""]}},
        {"models": {"models": ["\u001b[31m"]}},
    ],
)
async def test_one_that_answers_wrongly_is_named(wrong: dict[str, Any]) -> None:
    async with node(**wrong) as old:
        (missing,) = (await find(Fleet(old))).missing
        assert missing.reason in ("error", "offline")


async def test_addresses_that_lead_inside_are_not_called() -> None:
    async with node() as old:
        fleet = Fleet(old, allow_private=False)
        assert (await find(fleet)).missing == (Missing("old", "error"),)
        with pytest.raises(InvalidInput):
            await fleet.members()[0].request("summary", {}, 1.0)
        assert not old.paths
