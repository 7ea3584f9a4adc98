"""Generated and damaged inputs of clients of 2020, through the whole app: JSON, hexadecimal, base64 and protobuf.

Should happen: each input is accepted, if it is valid, or refused with a text.
Should not happen: a 500; a refusal that changes a process; an input that costs much more memory than its length.
"""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pygrid.errors import PygridError
from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.syft import read_state, write_plan, write_state
from pygrid.web.services import service
from support.pysyft import arrays, message, training_plan
from support.thorough import examples
from support.training import Device, Site, bearer, owned_folder, site  # noqa: F401 - fixtures

Check = Callable[..., Awaitable[None]]
NAMES = (
    *("type", "request_id", "data", "token", "worker_id", "request_key", "diff", "model", "version", "ping", "upload"),
    *("model_name", "model_version", "auth_token", "plans", "client_config", "server_config", "averaging_plan", "name"),
)
PATHS = ("authenticate", "cycle-request", "report", "leave", "host-training")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["digits", "1.0", "of-2020", "model-centric/report", "model-centric/host-training", "AAAA"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=12,
)
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def damage(data: bytes, damages: list[tuple[str, float, bytes]]) -> bytes:
    """The bytes with changes at relative places."""
    for kind, place, more in damages:
        at = int(place * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ more[0]]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + more + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[max(0, at - 16) :]
        elif kind == "drop":
            data = data[:at] + data[at + len(more) :]
    return data


async def fuzz(check: Check, num_examples: int, **strategies: Any) -> None:
    """Run a check in this event loop for generated arguments; none may take a minute."""
    loop = asyncio.get_running_loop()

    @hypothesis.settings(max_examples=examples(num_examples), database=None, derandomize=True)
    @hypothesis.given(**strategies)
    def run(**given: Any) -> None:
        asyncio.run_coroutine_threadsafe(check(**given), loop).result(60)

    await asyncio.to_thread(run)


class Target:
    """A Domain with processes of both kinds, and what no refusal may change."""

    def __init__(self, site: Site) -> None:  # noqa: F811
        self.site = site
        self.caller = LegacyCaller(site.app.state.authenticator, "127.0.0.1")
        self.token = site.owner["Authorization"].removeprefix("Bearer ")

    async def open(self) -> None:
        await self.site.host()
        form = message(num_cycles=1000)
        hosted = await self.site.web.post("/model-centric/host-training", json=form, headers=self.site.owner)
        assert hosted.status_code == 201, hosted.text

    async def device(self) -> Device:
        (process,) = [one for one in await self.processes() if one["name"] == "of-2020"]
        return await (await self.site.device(process)).join(wait_s=None)

    async def processes(self) -> list[dict[str, Any]]:
        found = await self.site.web.get("/model-centric/processes", headers=self.site.owner)
        listed: list[dict[str, Any]] = found.json()["processes"]
        return listed

    async def post(self, path: str, body: Any) -> httpx.Response:
        headers = {"content-type": "application/json", **(bearer(self.token) if path == "host-training" else {})}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        found = await self.site.web.post(f"/model-centric/{path}", content=content, headers=headers)
        assert found.status_code < 500, found.text
        return found

    async def say(self, text: str) -> Any:
        found = await answer(service(self.site.app.state, Published), self.caller, text)
        said = json.loads(found) if isinstance(found, str) else found
        assert "the server failed" not in json.dumps(said, default=str), said
        return said


@pytest.fixture
async def target(site: Site) -> Target:  # noqa: F811
    made = Target(site)
    await made.open()
    return made


async def test_any_json(target: Target) -> None:
    before = await target.processes()

    async def check(value: Any, path: str, kind: str) -> None:
        found = await target.post(path, value)
        if isinstance(value, dict) and found.status_code == 200 and path in ("report", "cycle-request"):
            assert "error" in found.json(), "nothing was asked that can be granted"
        said = await target.say(json.dumps(value))
        assert "error" in said or "error" in said["data"] or "alive" in said or "id" in said
        said = await target.say(json.dumps({"type": f"model-centric/{kind}", "data": value, "token": target.token}))
        assert list(said) == ["type", "data"]

    await fuzz(check, 160, value=VALUES, path=st.sampled_from(PATHS), kind=st.sampled_from(PATHS))
    assert await target.processes() == before


async def test_any_bytes_in_place_of_json(target: Target) -> None:
    before = await target.processes()
    device = await target.device()
    texts = [
        json.dumps({"worker_id": device.worker_id, "request_key": device.key, "diff": "AAAA"}).encode(),
        json.dumps({"worker_id": device.worker_id, "model": "none", "version": "1.0", "ping": 1.5}).encode(),
        json.dumps(message(name="new", num_cycles="x")).encode(),
    ]

    async def check(path: str, text: bytes, damages: Any) -> None:
        data = damage(text, damages)
        await target.post(path, data)
        await target.say(data.decode(errors="replace"))

    strategies = {"path": st.sampled_from(PATHS), "text": st.sampled_from(texts), "damages": DAMAGES}
    await fuzz(check, 160, **strategies)
    assert [one["num_checkpoints"] for one in await target.processes()] == [one["num_checkpoints"] for one in before]
    assert len(await target.processes()) == len(before)


def is_valid_diff(data: bytes) -> bool:
    try:
        found = read_state(data)
    except PygridError:
        return False
    expected = [one.shape for one in arrays()]
    is_whole = [one.shape for one in found] == expected and all(one.dtype == np.float32 for one in found)
    return is_whole and all(np.isfinite(one).all() for one in found)


@pytest.mark.parametrize("kind", ["protobuf", "base64"])
async def test_damaged_diffs(target: Target, kind: str) -> None:
    diff = write_state(arrays(0.5))
    (process,) = [one for one in await target.processes() if one["name"] == "of-2020"]
    device = await target.device()
    num_reports = 0

    async def check(damages: Any, is_http: bool) -> None:
        nonlocal device, num_reports
        if kind == "protobuf":
            data = damage(diff, damages)
            text = base64.b64encode(data).decode()
        else:
            text = damage(base64.b64encode(diff), damages).decode("latin-1")
            try:
                data = base64.b64decode("".join(text.split()), validate=True)
            except ValueError:
                data = b"not base64"
        body = {"worker_id": device.worker_id, "request_key": device.key, "diff": text}
        if is_http:
            said = (await target.post("report", body)).json()
        else:
            said = (await target.say(json.dumps({"type": "model-centric/report", "data": body})))["data"]
        if said == {"status": "success"}:
            assert is_valid_diff(data)
            num_reports += 1
            if num_reports % 2 == 0:
                await target.site.until_completed(process, num_reports // 2)
            device = await target.device()
        else:
            assert list(said) == ["error"], said
        cycles = await target.site.cycles(process)
        assert sum(one["num_reports"] for one in cycles) == num_reports

    await fuzz(check, 160, damages=DAMAGES, is_http=st.booleans())
    # The same device still reports: nothing before has used up its key.
    body = {"worker_id": device.worker_id, "request_key": device.key, "diff": base64.b64encode(diff).decode()}
    assert (await target.post("report", body)).json() == {"status": "success"}


@pytest.mark.parametrize("part", ["model", "plan", "averaging", "hexadecimal"])
async def test_damaged_files_of_a_process(target: Target, part: str) -> None:
    """The name is taken, so that no process is made of an input that is valid."""
    before = await target.processes()
    files = {"model": write_state(arrays()), "plan": write_plan(training_plan()), "averaging": b"\x0a\x02\x08\x01"}

    async def check(damages: Any, is_http: bool) -> None:
        form = message()
        if part == "hexadecimal":
            form["model"] = damage(form["model"].encode(), damages).decode("latin-1")
        elif part == "model":
            form["model"] = damage(files["model"], damages).hex()
        elif part == "plan":
            form["plans"]["training_plan"] = damage(files["plan"], damages).hex()
        else:
            form["averaging_plan"] = damage(files["averaging"], damages).hex()
        if is_http:
            found = await target.post("host-training", form)
            assert (400 <= found.status_code < 500, bool(found.json()["error"])) == (True, True)
        else:
            sent = {"type": "model-centric/host-training", "token": target.token, "data": form}
            assert list((await target.say(json.dumps(sent)))["data"]) == ["error"]

    await fuzz(check, 40 if part in ("plan", "averaging") else 120, damages=DAMAGES, is_http=st.booleans())
    assert await target.processes() == before
    assert target.site.partial_files() == []


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf with a length, which may be a lie if the content is short."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def tensor(dims: bytes, contents: bytes = b"") -> bytes:
    data = field(1, field(1, dims)) + field(2, b"float32") + contents
    return field(2, field(1, field(2, data) + b"\x40\x04"))


BOMBS: dict[str, bytes] = {
    "a shape of many values": tensor(varint(2**31 - 1) * 2),
    "a shape of many axes": tensor(varint(1) * 900),
    "a negative axis": tensor(varint(2**64 - 1) + varint(2**64 - 1)),
    "contents that are said to be long": b"\x12\xff\xff\xff\xff\x0f",
    "a length of 64 bits": b"\x12" + b"\xff" * 9 + b"\x01",
    "a length without an end": b"\x12" + b"\xff" * 40,
    "many empty tensors": b"\x12\x00" * 60_000,
    "many tiny values": tensor(b"\x01", b"\xb5\x01\x00\x00\x00\x3f" * 20_000),
    "nesting": b"\x12" * 30_000,
    "unknown fields": b"\xfa\x01\x00" * 60_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_small_input_costs_little_memory(target: Target, bomb: str) -> None:
    device, data = await target.device(), BOMBS[bomb]
    body = {"worker_id": device.worker_id, "request_key": device.key, "diff": base64.b64encode(data).decode()}
    sent = json.dumps({"type": "model-centric/report", "data": body})
    form = {**message(name="new"), "model": data.hex()}
    before = await target.processes()
    tracemalloc.start()
    try:
        assert "error" in (await target.post("report", body)).json()
        assert list((await target.say(sent))["data"]) == ["error"]
        assert 400 <= (await target.post("host-training", form)).status_code < 500
        assert tracemalloc.get_traced_memory()[1] < 24 * 1024**2
    finally:
        tracemalloc.stop()
    assert await target.processes() == before
