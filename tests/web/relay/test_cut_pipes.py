"""Pipes of a Domain that is put out, at each moment of their lives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pygrid.features.relay.network.pipes import End, Pipes, RelayLimits
from pygrid.lifecycle import Stopping
from pygrid.metrics import Metrics
from support.eventually import turns


def silent() -> End:
    """An end that neither says anything nor closes."""

    async def send(_message: Any) -> None: ...

    return End(asyncio.Event().wait, send)


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_cut_ends_a_pipe_that_is_open_or_being_opened(is_open: bool) -> None:
    pipes = Pipes(RelayLimits(), Stopping(), Metrics())
    with pipes.place("alice", "ann") as cut:
        if not is_open:
            pipes.disconnect("alice")
        splicing = asyncio.create_task(pipes.splice("alice", silent(), silent(), cut))
        if is_open:
            await turns()
            pipes.disconnect("alice")
        async with asyncio.timeout(60):
            await splicing
    # The next one is not cut.
    with pipes.place("alice", "ann") as cut:
        assert not cut.is_set()
    assert pipes.count("alice") == 0


async def test_a_cut_to_come_is_meant_for_those_that_are_there() -> None:
    pipes = Pipes(RelayLimits(), Stopping(), Metrics())
    with pipes.place("alice", "ann") as leaving, pipes.place("bob", "domain k", "Alice") as outgoing:
        pipes.disconnect("ALICE", after_s=0.05)
        assert not leaving.is_set()
        with pipes.place("alice", "ann") as later:
            async with asyncio.timeout(60):
                await leaving.wait()
                await outgoing.wait()
            assert not later.is_set()


async def test_carried_bytes_and_callers_are_counted_for_each_domain() -> None:
    pipes, messages = Pipes(RelayLimits(), Stopping(), Metrics()), iter([b"12345", b"678", None])

    async def receive() -> dict[str, Any]:
        data = next(messages)
        return {"type": "websocket.disconnect"} if data is None else {"type": "websocket.receive", "bytes": data}

    with pipes.place("alice", "user 1") as cut, pipes.place("bob", "user 1"):
        assert pipes.list_callers("alice") == [("user 1", 1)]
        async with asyncio.timeout(60):
            await pipes.splice("alice", End(receive, silent().send), silent(), cut)
    assert (pipes.carried_bytes("alice"), pipes.carried_bytes("bob")) == (8, 0)
    assert pipes.list_callers("alice") == []
