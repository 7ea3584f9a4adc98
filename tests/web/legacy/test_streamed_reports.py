"""Large reports over the WebSocket, over real sockets: read as a stream, whatever the frames are.

Should happen: the reports of all devices of an address are taken in a small part of their length; a report may be
longer than any other message; after a refusal, the WebSocket goes on.
Should not happen: a report counts whose members after the diff are wrong; a message within another one is read.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from pygrid.features.cycles.published import PublishedDevices
from pygrid.legacy.devices import LargeReports
from pygrid.storage.store import Store
from pygrid.syft import PlanMessage, write_plan, write_state
from pygrid.web.message_memory import MessageMemory
from pygrid.web.services import service
from support.eventually import eventually, turns
from support.large_reports import LIMIT, NUM_DEVICES, NUM_VALUES, Round, diff, started  # noqa: F401 - fixture

REPORT = "model-centric/report"
Fields = dict[str, Any]


@asynccontextmanager
async def talking(port: int, **more: Any) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}/", proxy=None, **more) as socket:
        yield socket


def message(fields: Fields, **more: Any) -> str:
    return json.dumps({"type": REPORT, "request_id": "r", "data": fields, **more})


async def say(socket: ClientConnection, text: str | Iterable[str]) -> Any:
    await socket.send(text)
    return json.loads(await socket.recv())


DONE = {"type": REPORT, "request_id": "r", "data": {"status": "success"}}


async def test_the_reports_of_all_devices_are_taken(started: Round) -> None:  # noqa: F811
    devices = [await started.device() for _ in range(NUM_DEVICES)]
    text = diff()

    async def report(device: Fields) -> Any:
        async with talking(started.port) as socket:
            return await say(socket, message({**device, "diff": text}))

    sending = asyncio.gather(*map(report, devices))
    most = 0

    def is_sent() -> bool:
        nonlocal most
        most = max(most, started.server.open_connections.num_held_bytes)
        return sending.done()

    await eventually(is_sent, within_s=120)
    assert await sending == [DONE] * NUM_DEVICES
    assert most <= LIMIT
    assert await started.num_reports() == NUM_DEVICES
    assert service(started.state, MessageMemory).num_bytes == 0


async def test_a_report_that_is_longer_than_other_messages(started: Round) -> None:  # noqa: F811
    num_values = 4_300_000
    form = {
        "model": write_state([np.zeros(num_values, np.float32)]).hex(),
        "plans": {"training_plan:ts": write_plan(PlanMessage("training_plan", torchscript=b"opaque")).hex()},
        "client_config": {"name": "huge", "version": "1.0"},
        "server_config": {"cycle_length": 3600, "num_cycles": 1, "max_diffs": 9},
    }
    hosted = await started.web.post("/model-centric/host-training", json=form, headers=started.owner)
    assert hosted.status_code == 201, hosted.text
    async with talking(started.port, origin="https://app.example") as socket:
        named = {"type": "model-centric/authenticate", "data": {"model_name": "huge"}}
        worker_id = (await say(socket, json.dumps(named)))["data"]["worker_id"]
        asked = {"worker_id": worker_id, "model": "huge", "version": "1.0"}
        accepted = (await say(socket, json.dumps({"type": "model-centric/cycle-request", "data": asked})))["data"]
        fields = {"worker_id": worker_id, "request_key": accepted["request_key"], "diff": diff(0.5, num_values)}
        assert len(fields["diff"]) > 20 * 1024**2
        assert await say(socket, message(fields)) == DONE
        assert await say(socket, message(fields)) == DONE, "the same report again"


@pytest.mark.parametrize("size", [5_000, 65_536, 300_000])
async def test_fragments_with_other_frames_between_them(started: Round, size: int) -> None:  # noqa: F811
    device = await started.device()
    text = message({**device, "diff": diff()})

    async def parts() -> AsyncIterator[str]:
        for start in range(0, len(text), size):
            yield text[start : start + size]
            if start < 4 * size:
                await (await socket.ping())

    async with talking(started.port) as socket:
        await socket.send(parts())
        assert json.loads(await socket.recv()) == DONE
        assert (await say(socket, '{"type": "socket-ping"}'))["alive"] == "True"
    assert await started.num_reports() == 1


async def test_members_in_any_order(started: Round) -> None:  # noqa: F811
    first, second = await started.device(), await started.device()
    async with talking(started.port) as socket:
        data = {"diff": diff(), **first}
        assert await say(socket, json.dumps({"data": data, "request_id": "r", "type": REPORT})) == DONE
        mixed = {"request_key": second["request_key"], "diff": diff(), "worker_id": first["worker_id"]}
        refused = await say(socket, message(mixed))
        assert refused["data"] == {"error": "Invalid request key!"}
        for kind in ("model-centric/authenticate", "get-id", 5, None):
            last = {"data": {**second, "diff": diff()}, "request_id": "r", "type": kind}
            assert "needs the type" in (await say(socket, json.dumps(last)))["data"]["error"]
        twice = message({**second, "diff": diff()}, more=1)[:-1] + ', "data": {}}'
        assert "two members" in (await say(socket, twice))["data"]["error"]
        outside = json.dumps({"type": REPORT, "x": {"diff": diff()}, "data": second, "request_id": "r"})
        assert list((await say(socket, outside))["data"]) == ["error"]
        assert await started.num_reports() == 1
        assert await say(socket, message({**second, "diff": diff()})) == DONE
    stage = service(started.state, PublishedDevices).stage
    assert (stage.num_files, service(started.state, MessageMemory).num_bytes) == (0, 0)


@pytest.mark.parametrize("order", ["key first", "diff first"])
async def test_a_wrong_report_is_refused_and_the_socket_goes_on(started: Round, order: str) -> None:  # noqa: F811
    device = await started.device()
    cases: list[tuple[Fields, str]] = [
        ({"request_key": "0" * 64}, "Invalid request key!"),
        ({"worker_id": "nobody"}, "Invalid request key!"),
        ({"diff": diff(num_values=NUM_VALUES - 1)}, "has shape"),
        ({"diff": diff(num_values=2 * NUM_VALUES)}, "bytes"),
        ({"diff": diff(float("nan"))}, "NaN or infinite"),
        ({"diff": diff()[:-8]}, "ends inside a field"),
        ({"diff": "!" + diff()[1:]}, "not base64"),
        ({"diff": diff()[:400_000] + "\u20ac" + diff()[400_001:]}, "not base64"),
        ({"more": "x" * 5000}, "in addition to its diff"),
    ]
    async with talking(started.port) as socket:
        for change, words in cases:
            fields = {**device, "diff": diff(), **change}
            if order == "diff first":
                fields = {"diff": fields.pop("diff"), **fields}
            text = json.dumps({"type": REPORT, "request_id": "r", "data": fields}, ensure_ascii=False)
            found = await say(socket, text)
            assert (list(found), list(found["data"])) == (["type", "request_id", "data"], ["error"])
            assert words in found["data"]["error"], found
        assert await started.num_reports() == 0
        assert await say(socket, message({**device, "diff": diff()})) == DONE
    assert service(started.state, MessageMemory).num_bytes == 0


async def test_a_full_disk_is_told_and_the_socket_goes_on(started: Round, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    device = await started.device()
    diffs = service(started.state, Store).diffs

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with talking(started.port) as socket:
        with monkeypatch.context() as patch:
            patch.setattr(type(diffs), "spool", full)
            found = await say(socket, message({**device, "diff": diff()}))
            assert list(found["data"]) == ["error"]
            assert "disk" in found["data"]["error"]
            assert "Traceback" not in found["data"]["error"]
        assert await say(socket, message({**device, "diff": diff()})) == DONE


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(data: bytes, opcode: Opcode = Opcode.TEXT, *, is_final: bool = True) -> bytes:
    return Frame(opcode, data, fin=is_final).serialize(mask=True)


async def test_bytes_that_arrive_one_by_one(started: Round) -> None:  # noqa: F811
    device = await started.device()
    text = message({**device, "diff": diff()}).encode()
    sent = frame(text[:70_000], is_final=False) + frame(b"", Opcode.CONT, is_final=False) + frame(b"p", Opcode.PING)
    sent += frame(text[70_000:], Opcode.CONT, is_final=False) + frame(b"", Opcode.CONT) + frame(b'{"type": "get-id"}')
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    borders = [*range(40), *range(69_990, 70_060), *range(len(sent) - 60, len(sent) + 1)]
    for start, end in itertools.pairwise(borders):
        writer.write(sent[start:end])
        await writer.drain()
        await turns(1)
    found = await asyncio.wait_for(reader.readuntil(b"0.2.9"), 60)
    assert b'"data":{"status":"success"}' in found
    writer.close()
    assert await started.num_reports() == 1


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
async def test_a_message_within_another_one_ends_the_connection(started: Round, opcode: Opcode) -> None:  # noqa: F811
    device = await started.device()
    text = message({**device, "diff": diff()}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(text[:100_000], is_final=False) + frame(b"{}", opcode))
    assert b"expected a continuation frame" in await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await eventually(lambda: started.server.open_connections.num_held_bytes == 0)
    assert await started.num_reports() == 0


@pytest.mark.parametrize("head", [b"\x80\x02", b"\xc0\x82\0\0\0\0"], ids=["no mask", "a reserved bit"])
async def test_a_frame_that_is_not_valid_within_a_report_ends_the_connection(started: Round, head: bytes) -> None:  # noqa: F811
    device = await started.device()
    text = message({**device, "diff": diff()}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(text[:100_000], is_final=False) + head + b"AA")
    assert b"\x03\xea" in await asyncio.wait_for(reader.read(), 60), "protocol error, 1002"
    writer.close()
    await eventually(lambda: started.server.open_connections.num_held_bytes == 0)
    assert await started.num_reports() == 0


async def test_a_device_that_goes_away_leaves_nothing(started: Round) -> None:  # noqa: F811
    device = await started.device()
    for fields in ({**device, "diff": diff()}, {"diff": diff(), **device}):
        data = frame(message(fields).encode())
        _, writer = await asyncio.open_connection("127.0.0.1", started.port)
        writer.write(HANDSHAKE + data[: len(data) * 3 // 4])
        await writer.drain()
        writer.close()
    memory, stage = service(started.state, MessageMemory), service(started.state, PublishedDevices).stage
    await eventually(lambda: memory.num_bytes == 0 and stage.num_files == 0)
    async with talking(started.port) as socket:
        assert await say(socket, message({**device, "diff": diff()})) == DONE


async def test_tiny_fragments_of_a_large_message_are_bounded(started: Round) -> None:  # noqa: F811
    device = await started.device()
    text = message({**device, "diff": diff()})
    parts = [text[:70_000], *text[70_000:73_000], text[73_000:]]
    async with talking(started.port) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await say(socket, parts)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("start", "is_report"),
    [
        ('{"type": "model-centric/report", "data": {"diff": "AA', True),
        ('{"data": {"worker_id": "w", "diff": "', True),
        ('{"type": "model-centric/report", "diff": "AA', False),
        ('{"type": "host-model", "model": "AAAA', False),
        ('{"type": "x", "data": {"model": "' + "0" * 4000, False),
        ('{"type": "x", "y": [{"diff": ["AA', False),
        (" " * 4096, False),
        ("[" * 40, False),
        ("\x00\xff", False),
    ],
)
def test_what_begins_a_report(start: str, is_report: bool) -> None:
    assert LargeReports.begins_report(start.encode("latin-1")) is is_report
