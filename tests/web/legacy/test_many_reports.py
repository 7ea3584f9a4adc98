"""Large reports of many devices of 2020 behind one address, over real sockets.

Should happen: all of them are taken while the server holds a small part of one round; the key may come after the diff.
Should not happen: a device is cut off; a client without a key fills memory or the disk, or keeps either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from pygrid.features.cycles.published import PublishedDevices
from pygrid.web.message_memory import MessageMemory
from pygrid.web.services import service
from support.eventually import eventually
from support.large_reports import LIMIT, NUM_DEVICES, NUM_VALUES, Round, diff, started  # noqa: F401 - fixture


async def test_the_reports_of_all_devices_are_taken(started: Round) -> None:  # noqa: F811
    devices = [await started.device() for _ in range(NUM_DEVICES)]
    text = diff()
    assert NUM_DEVICES * len(text) > 25 * LIMIT
    sending = asyncio.gather(*(started.post({**device, "diff": text}) for device in devices))
    most = 0

    def is_sent() -> bool:
        nonlocal most
        most = max(most, started.server.open_connections.num_held_bytes)
        return sending.done()

    await eventually(is_sent, within_s=120)
    assert [one.json() for one in await sending] == [{"status": "success"}] * NUM_DEVICES
    assert 0 < most <= LIMIT
    assert await started.num_reports() == NUM_DEVICES
    assert service(started.state, MessageMemory).num_bytes == 0


async def test_the_key_may_come_after_the_diff(started: Round, tmp_path: Path) -> None:  # noqa: F811
    first, second = await started.device(), await started.device()
    body = {"diff": diff(), **first}
    assert (await started.post(body)).json() == {"status": "success"}
    assert (await started.post({**first, "diff": diff()})).json() == {"status": "success"}, "the same report again"
    other = await started.post({"diff": diff(), **first, "worker_id": second["worker_id"]})
    assert other.json() == {"error": "Invalid request key!"}
    middle = {"request_key": second["request_key"], "diff": diff(), "worker_id": first["worker_id"]}
    assert (await started.post(middle)).json() == {"error": "Invalid request key!"}
    assert (await started.post({**middle, "worker_id": second["worker_id"]})).json() == {"status": "success"}
    assert await started.num_reports() == 2


async def test_bodies_without_a_key_fill_neither_memory_nor_the_disk(started: Round) -> None:  # noqa: F811
    stage = service(started.state, PublishedDevices).stage
    memory = service(started.state, MessageMemory)
    begun = b'{"diff": "' + b"A" * 1_500_000
    head = b"POST /model-centric/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    ends = []
    for _ in range(4):
        reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
        writer.write(head + begun)
        ends.append((reader, writer))
    reading = [asyncio.create_task(reader.readuntil(b"\r\n\r\n")) for reader, _ in ends]
    await eventually(lambda: sum(one.done() for one in reading) == 2 and stage.num_files == 2)
    answers = [one.result() for one in reading if one.done()]
    assert all(one.startswith(b"HTTP/1.1 503 ") for one in answers)
    assert b"retry-after: 5" in answers[0].lower()
    assert memory.num_bytes <= 2 * 3 * 1024 * 1024
    device = await started.device()
    assert (await started.post({**device, "diff": diff()})).json() == {"status": "success"}, "others go on"
    for one in reading:
        one.cancel()
    for _, writer in ends:
        writer.close()
    await eventually(lambda: stage.num_files == 0 and memory.num_bytes == 0)


@pytest.mark.parametrize("changes", [{"request_key": "0" * 64}, {"worker_id": "another"}])
async def test_a_diff_with_an_invalid_key_is_not_read(started: Round, changes: dict[str, str]) -> None:  # noqa: F811
    body = json.dumps({**await started.device(), **changes, "diff": "A"}).encode()
    head = b"POST /model-centric/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(head + body[:-2])
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 60)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Invalid request key!" in answer
    writer.close()


async def test_a_body_that_is_announced_too_long_is_not_read(started: Round) -> None:  # noqa: F811
    body = json.dumps({**await started.device(), "diff": "A"}).encode()
    head = b"POST /model-centric/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(head + body[:-2])
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_a_wrong_diff_is_refused_while_it_arrives(started: Round) -> None:  # noqa: F811
    device = await started.device()
    for wrong, words in (
        (diff(num_values=NUM_VALUES - 1), "has shape"),
        (diff(float("nan")), "NaN or infinite"),
        (diff()[:-8], "ends inside a field"),
        ("!" + diff()[1:], "not base64"),
    ):
        found = await started.post({**device, "diff": wrong})
        assert (found.status_code, list(found.json())) == (200, ["error"])
        assert words in found.json()["error"], found.json()
    assert await started.num_reports() == 0
    assert (await started.post({**device, "diff": diff()})).json() == {"status": "success"}
