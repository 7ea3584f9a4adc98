"""Messages of devices over the WebSocket at ``/``.

Should happen: a device of 2020 authenticates, asks for a cycle and reports over one WebSocket; each answer, also a
refusal, repeats ``type`` and ``request_id`` and has ``data``; a page of any site does the same.
Should not happen: a page of another site does anything else; an answer has a member that the published one lacks; a
large message takes memory without a bound, or closes the WebSocket without a reason.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Litestar
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.syft import write_state
from pygrid.tensors import encode
from pygrid.web.message_memory import MessageMemory
from pygrid.web.services import service
from support.training import Site, model, owned_folder, site  # noqa: F401 - fixtures
from support.web import serving

DIGITS = {"model_name": "digits", "model_version": "1.0"}
CYCLE = {"model": "digits", "version": "1.0"}


class Talk:
    """Messages to a running app, without a socket."""

    def __init__(self, app: Litestar, *, is_foreign: bool = False) -> None:
        self.published = service(app.state, Published)
        self._caller = LegacyCaller(app.state.authenticator, "127.0.0.1", is_foreign=is_foreign)

    async def send(self, text: str) -> Any:
        found = await answer(self.published, self._caller, text)
        return json.loads(found) if isinstance(found, str) else found

    async def say(self, kind: str, data: Any = None, **more: Any) -> Any:
        """The answer's ``data``, after a check of its envelope."""
        message = {"type": f"model-centric/{kind}", "data": data, "request_id": f"id of {kind}", **more}
        found = await self.send(json.dumps(message))
        assert list(found) == ["type", "request_id", "data"]
        assert (found["type"], found["request_id"]) == (message["type"], message["request_id"])
        return found["data"]


def diff(value: float = 0.5) -> str:
    return base64.b64encode(write_state([model(value)[name] for name in ("weight", "bias")])).decode()


async def test_a_cycle_over_one_websocket(site: Site) -> None:  # noqa: F811
    process = await site.host(max_diffs=1, num_cycles=1, published=True)
    for talk in (Talk(site.app, is_foreign=True), Talk(site.app)):
        client = await talk.say("authenticate", DIGITS)
        assert client == {"status": "success", "worker_id": client["worker_id"], "requires_speed_test": False}
        asked = {"worker_id": client["worker_id"], **CYCLE, "ping": 1, "download": 2.5, "upload": 3}
        accepted = await talk.say("cycle-request", asked)
        if talk._caller.is_foreign:
            names = ["status", "request_key", "version", "model", "plans", "protocols", "client_config", "model_id"]
            assert list(accepted) == names
            text = "\n".join(diff()[at : at + 76] for at in range(0, len(diff()), 76))
            report = {"worker_id": client["worker_id"], "request_key": accepted["request_key"], "diff": text}
            assert await talk.say("report", report) == {"status": "success"}
            assert await talk.say("report", report) == {"status": "success"}, "the same report counts once"
            await site.until_completed(process)
        else:
            assert accepted == {"status": "rejected"}, "the training has ended"


async def test_refusals_have_the_published_texts_and_nothing_else(site: Site) -> None:  # noqa: F811
    await site.host(authentication={"secret": "s" * 32}, minimum_upload_speed=1)
    await site.host(name="open", minimum_upload_speed=1)
    talk = Talk(site.app)
    missing = {"error": "Authentication is required, please pass an 'auth_token'."}
    assert await talk.say("authenticate", DIGITS) == missing
    invalid = {"error": "The 'auth_token' you sent is invalid."}
    assert await talk.say("authenticate", {**DIGITS, "auth_token": "x"}) == invalid
    unknown = {"error": "Not found any process related with this cycle and worker ID."}
    assert await talk.say("authenticate", {"model_name": "none"}) == unknown
    assert await talk.say("cycle-request", {"worker_id": "x", "model": "none"}) == {"status": "rejected", **unknown}
    client = (await talk.say("authenticate", {"model_name": "open"}))["worker_id"]
    asked = {"worker_id": client, "model": "open", "version": "1.0", "ping": 1, "download": 1}
    assert await talk.say("cycle-request", asked) == {"status": "rejected", "error": "'upload' is required"}
    negative = await talk.say("cycle-request", {**asked, "upload": -1})
    assert negative == {"status": "rejected", "error": "'upload' needs to be a positive number"}
    slow = await talk.say("cycle-request", {**asked, "upload": 0.5})
    assert list(slow) == ["status", "timeout"], "an ordinary refusal is no error"
    nobody = {**asked, "worker_id": "nobody", "upload": 1}
    assert (await talk.say("cycle-request", nobody))["error"] == "Worker ID not found!"
    assert await talk.say("report", {"worker_id": client}) == {"error": "Missing request key!"}
    wrong = {"worker_id": client, "request_key": "0" * 64, "diff": diff()}
    assert await talk.say("report", wrong) == {"error": "Invalid request key!"}
    for no_object in (None, 5, [], "text"):
        assert "'data' must be an object" in (await talk.say("authenticate", no_object))["error"]
    assert "unknown message type" in (await talk.say("no-such-type", {}))["error"]
    nul = await talk.say("authenticate", {"model_name": "digits\0"})
    assert "NUL" in nul["error"]


async def test_a_key_of_another_client_reports_nothing(site: Site) -> None:  # noqa: F811
    process = await site.host()
    mine, other = await site.devices(process, 2)
    talk = Talk(site.app)
    report = {"worker_id": other.worker_id, "request_key": mine.key, "diff": diff()}
    assert await talk.say("report", report) == {"error": "Invalid request key!"}
    for bad in (diff(float("nan")), base64.b64encode(b"x" * 100).decode(), ""):
        assert "error" in await talk.say("report", {**report, "worker_id": mine.worker_id, "diff": bad})
    for no_base64 in ("\u20ac", "a", "====", "!" * 100):
        found = await talk.say("report", {**report, "worker_id": mine.worker_id, "diff": no_base64})
        assert "base64" in found["error"]
    both = await asyncio.gather(
        talk.say("report", {**report, "worker_id": mine.worker_id}),
        site.web.post(
            "/model-centric/report",
            content=encode(model(0.25)),
            headers={"Authorization": f"Bearer {mine.key}"},
        ),
    )
    assert [both[0] == {"status": "success"}, both[1].status_code == 200].count(True) == 1


async def test_a_page_of_another_site_sends_messages_of_devices_only(site: Site) -> None:  # noqa: F811
    talk = Talk(site.app, is_foreign=True)
    assert await talk.send('{"type": "socket-ping"}') == {"type": "socket-ping", "alive": "True"}
    for kind in sorted(set(talk.published.handlers) - set(talk.published.device_handlers)):
        found = await talk.send(json.dumps({"type": kind, "data": {}, "email": "a@b.c", "password": "long enough"}))
        refused = found.get("data", found)
        assert found["type"] == kind
        assert "a page of another site may not send" in refused["error"]


async def test_messages_that_are_not_decoded_are_told_apart_by_their_text(site: Site) -> None:  # noqa: F811
    talk = Talk(site.app)
    texts = [
        '{"type": "model-centric/report", "request_id": 7, "data": {"diff": "' + "x" * 10_000 + '"',
        '{"request_id": 7, "data": [' + "[" * 40 + "]" * 40 + '], "type": "model-centric/report"}',
        '{"type": "model-centric/report", "request_id": 7, "data": [' + "[]," * 300_000 + "[]]}",
    ]
    for text in texts:
        found = await talk.send(text)
        assert (found["type"], found["request_id"], list(found["data"])) == ("model-centric/report", 7, ["error"])
    assert (await talk.send(" " * 2_000_000))["code"] == "invalid_json"
    assert (await talk.send("null"))["code"] == "invalid_input"
    assert (await talk.send('{"data": {}}'))["code"] == "unknown_type"


async def test_large_messages_have_a_bound_together(site: Site) -> None:  # noqa: F811
    talk = Talk(site.app)
    talk.published.memory.max_bytes = 1024**2
    text = json.dumps({"type": "model-centric/report", "data": {"diff": "A" * 200_000, "request_key": "x"}})
    found = await asyncio.gather(*(talk.send(text) for _ in range(6)))
    refused = [one for one in found if "other messages are being handled" in one["data"]["error"]]
    assert 3 <= len(refused) < 6
    assert {one["type"] for one in found} == {"model-centric/report"}
    assert talk.published.memory.num_bytes == 0
    assert (await talk.send(text))["data"] == {"error": "Worker ID not found!"}


def test_one_large_message_is_always_accepted() -> None:
    memory = MessageMemory(max_bytes=1)
    with memory.hold(10**6):
        assert memory.num_bytes == 3 * 10**6


# Over real sockets


@pytest.fixture
async def port(domain: Litestar) -> AsyncIterator[int]:
    async with serving(domain, held_bytes_per_address=5_000_000) as (_, port):
        yield port


async def test_a_page_of_another_site_connects(port: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}/", origin="https://app.example", proxy=None) as socket:
        for text, expected in (
            ({"type": "model-centric/authenticate", "data": {"model_name": "none"}}, "Not found any process"),
            ({"type": "get-id"}, "a page of another site"),
        ):
            await socket.send(json.dumps(text))
            assert expected in await socket.recv()


async def test_a_report_of_two_megabytes_fits_and_the_size_has_a_limit(port: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as socket:
        report = {"worker_id": "x", "request_key": "y", "diff": base64.b64encode(b"\x01" * 1_660_000).decode()}
        await socket.send(json.dumps({"type": "model-centric/report", "data": report}))
        assert json.loads(await socket.recv())["data"] == {"error": "Invalid request key!"}
        await socket.send(" " * 2_000_000)
        assert json.loads(await socket.recv())["code"] == "invalid_json"
        with pytest.raises(ConnectionClosed) as caught:
            await _ask(socket, "x" * (17 * 1024**2))
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


async def _ask(socket: ClientConnection, text: str) -> str | bytes:
    await socket.send(text)
    return await socket.recv()


async def test_unfinished_messages_that_need_too_much_memory_are_told_so(port: int) -> None:
    part = b"\x01\xff" + (1_000_000).to_bytes(8, "big") + b"\0\0\0\0" + b" " * 900_000
    async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as first:
        first.transport.write(part)
        ends = []
        for _ in range(6):
            socket = await connect(f"ws://127.0.0.1:{port}/", proxy=None)
            socket.transport.write(part)
            ends.append(socket)
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(first.recv(), 60)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, "no memory" in caught.value.rcvd.reason) == (1013, True)
        for socket in ends:
            socket.transport.abort()
