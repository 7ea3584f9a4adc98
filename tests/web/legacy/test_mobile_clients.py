"""Conversations of KotlinSyft and SwiftSyft, in their bytes as far as these are known.

Should happen: both get a model, TorchScript and an acceptance that their decoders take; a report becomes a checkpoint.
Should not happen: an answer has a member that KotlinSyft, which is strict, does not know, or a number that SwiftSyft
cannot decode as Int; a refusal is an error where the training goes on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.syft import read_plan, read_state
from pygrid.syft.tensors import tensor_pieces
from pygrid.syft.wire import write_bytes, write_text
from pygrid.tensors import encode
from pygrid.web.services import service
from support.training import PLAN, Site, config, form, model, opaque_variant, owned_folder, site  # noqa: F401 - fixtures

Fields = dict[str, Any]
JSON = {"content-type": "application/json"}


def state(arrays: list[np.ndarray[Any, Any]], *, as_parameters: bool) -> bytes:
    """A State as a mobile client writes it: placeholders and tensors have text ids, or the tensors are parameters."""
    parts = [
        write_bytes(1, write_bytes(3, write_text(2, f"id-{n}")) + write_text(4, f"#{n}") + write_text(4, f"#state-{n}"))
        for n in range(len(arrays))
    ]
    for number, array in enumerate(arrays):
        tensor = b"".join(bytes(one) for one in tensor_pieces(number, array))
        if as_parameters:
            identity = write_bytes(1, write_text(2, f"id-{number}"))
            parts.append(write_bytes(2, write_bytes(2, identity + write_bytes(2, tensor) + b"\x18\x01")))
        else:
            parts.append(write_bytes(2, write_bytes(1, tensor)))
    return b"".join(bytes(one) for one in parts)


def kotlin_json(fields: Fields) -> str:
    return json.dumps(fields, separators=(",", ":"))


def swift_json(fields: Fields) -> str:
    """Members in the order of a hash, slashes with a backslash."""
    return json.dumps(dict(sorted(fields.items(), key=lambda item: hash(item[0]))), separators=(",", ":")).replace(
        "/", "\\/"
    )


def decode_strictly(text: str, *members: str) -> Fields:
    """Members of a JSON object, all of which are known."""
    found: Fields = json.loads(text)
    assert set(found) <= set(members), f"unknown to the decoder: {set(found) - set(members)}"
    return found


ACCEPTED = ("status", "request_key", "version", "model", "plans", "protocols", "client_config", "model_id")


@dataclass
class Client:
    """What differs between the two clients."""

    name: str
    encode: Callable[[Fields], str]
    speeds: Fields
    base64: Callable[[bytes], str]
    as_parameters: bool
    has_socket: bool


KOTLIN = Client(
    "KotlinSyft",
    kotlin_json,
    {"ping": 12, "download": 7021.5, "upload": 3500.25},
    lambda data: base64.encodebytes(data).decode(),
    as_parameters=False,
    has_socket=False,
)
"""Speeds in KB/s; Android's base64 has a line break after 76 characters."""
SWIFT = Client(
    "SwiftSyft",
    swift_json,
    {"ping": 12.5, "download": 7.0215, "upload": 3.5},
    lambda data: base64.b64encode(data).decode(),
    as_parameters=True,
    has_socket=True,
)
"""Speeds in MB/s; authentication and cycle request over the WebSocket, the report by POST."""
CLIENTS = pytest.mark.parametrize("client", [KOTLIN, SWIFT], ids=lambda one: one.name)


class Conversation:
    """The requests of one client."""

    def __init__(self, site: Site, client: Client) -> None:  # noqa: F811
        self.site, self.client = site, client
        self.caller = LegacyCaller(site.app.state.authenticator, "127.0.0.1")

    async def say(self, message: Fields) -> Fields:
        published = service(self.site.app.state, Published)
        found = await answer(published, self.caller, self.client.encode(message))
        assert isinstance(found, dict)
        return found

    async def send(self, path: str, fields: Fields, *members: str) -> Fields:
        """The answer, which has only these members."""
        if self.client.has_socket and path != "report":
            found = await self.say({"type": f"model-centric/{path}", "data": fields})
            assert list(found) == ["type", "data"]
            return decode_strictly(json.dumps(found["data"]), *members)
        sent = await self.site.web.post(f"/model-centric/{path}", content=self.client.encode(fields), headers=JSON)
        assert sent.status_code == 200, sent.text
        return decode_strictly(sent.text, *members)

    async def download(self, path: str, **query: Any) -> bytes:
        found = await self.site.web.get(f"/model-centric/{path}", params=query)
        assert (found.status_code, found.headers["content-type"]) == (200, "application/octet-stream"), found.text
        return found.content

    async def join(self) -> Fields:
        """The acceptance of a new client, after its speed test, with its ``worker_id``."""
        named = {"model_name": "digits", "model_version": "1.0"}
        client = await self.send("authenticate", named, "status", "worker_id", "requires_speed_test")
        assert (client["status"], client["requires_speed_test"]) == ("success", True)
        await self.test_speed(client["worker_id"])
        asked = {"worker_id": client["worker_id"], "model": "digits", "version": "1.0", **self.client.speeds}
        accepted = await self.send("cycle-request", asked, *ACCEPTED)
        assert (accepted["status"], accepted["protocols"]) == ("accepted", {})
        numbers = [accepted["model_id"], *accepted["plans"].values()]
        assert all(type(one) is int and one < 2**31 for one in numbers)
        assert {"name", "version", "max_updates", "batch_size", "lr"} <= set(accepted["client_config"])
        return {**accepted, "worker_id": client["worker_id"]}

    async def test_speed(self, worker_id: str) -> None:
        for random in ("0.25", "kUx8 ?&=/9", "a-b_c"):
            query = {"worker_id": worker_id, "random": random}
            ping = await self.site.web.get("/model-centric/speed-test", params={"is_ping": 1, **query})
            assert (ping.status_code, ping.content, ping.headers["content-type"]) == (200, b"{}", "application/json")
            form = {"sample": ("sample", b"x" * 300_000, "application/octet-stream")}
            sent = await self.site.web.post("/model-centric/speed-test", params=query, files=form)
            assert (sent.status_code, sent.content) == (200, b"{}")

    async def report(self, accepted: Fields, diff: list[np.ndarray[Any, Any]]) -> Fields:
        text = self.client.base64(state(diff, as_parameters=self.client.as_parameters))
        fields = {"worker_id": accepted["worker_id"], "request_key": accepted["request_key"], "diff": text}
        return await self.send("report", fields, "status", "error")


def values(value: float) -> list[np.ndarray[Any, Any]]:
    return [np.full_like(model()[name], value) for name in ("weight", "bias")]


@pytest.fixture
async def process(site: Site) -> Fields:  # noqa: F811
    wanted = config(minimum_upload_speed=1, max_diffs=2, num_cycles=1)
    wanted["client_config"]["max_updates"] = 10
    parts, name = form(wanted, encode(model())), "plan:training_plan:torchscript"
    hosted = await site.try_host([*parts, (name, (name, opaque_variant(PLAN), "application/json"))])
    assert hosted.status_code == 201, hosted.text
    found: Fields = hosted.json()
    return found


@CLIENTS
async def test_a_cycle(site: Site, process: Fields, client: Client) -> None:  # noqa: F811
    talk = Conversation(site, client)
    accepted = [await talk.join() for _ in range(2)]
    for one, value in zip(accepted, (0.5, 0.25), strict=True):
        own = {"worker_id": one["worker_id"], "request_key": one["request_key"]}
        served = await talk.download("get-model", model_id=one["model_id"], **own)
        for array, start in zip(read_state(served), values(1.0), strict=True):
            np.testing.assert_array_equal(array, start)
        ((plan_id),) = one["plans"].values()
        plan = await talk.download("get-plan", plan_id=plan_id, receive_operations_as="torchscript", **own)
        assert read_plan(plan).torchscript == b"TorchScript"
        assert await talk.report(one, values(value)) == {"status": "success"}
        again = await talk.report(one, values(value))
        assert again == {"status": "success"}, "an answer that was lost is asked for again"
    await site.until_completed(process)
    for array in (await site.checkpoint(process, 2)).values():
        np.testing.assert_array_equal(array, np.float32(1 - 0.375))


@CLIENTS
async def test_refusals(site: Site, process: Fields, client: Client) -> None:  # noqa: F811
    talk = Conversation(site, client)
    accepted = await talk.join()
    asked = {"worker_id": accepted["worker_id"], "model": "digits", "version": "1.0", **client.speeds}
    rejected = await talk.send("cycle-request", asked, "status", "timeout")
    assert (rejected["status"], type(rejected["timeout"])) == ("rejected", int)
    unknown = await talk.send("cycle-request", {**asked, "model": "none"}, "status", "error")
    assert unknown == {
        "status": "rejected",
        "error": "Not found any process related with this cycle and worker ID.",
    }
    missing = {name: value for name, value in asked.items() if name != "ping"}
    assert (await talk.send("cycle-request", missing, "status", "error"))["error"] == "'ping' is required"
    wrong = await talk.report(accepted, values(float("nan")))
    assert "NaN or infinite" in wrong["error"]
    other = await talk.report({**accepted, "request_key": "0" * 64}, values(0.5))
    assert other == {"error": "Invalid request key!"}
    query = {"worker_id": accepted["worker_id"], "request_key": "0" * 64, "model_id": accepted["model_id"]}
    refused = await site.web.get("/model-centric/get-model", params=query)
    assert (refused.status_code, refused.json()["error"]) == (401, "Invalid request key!")
    assert (await site.cycle(process))["num_reports"] == 0
    for other in (await talk.join(), accepted):
        await talk.report(other, values(0.5))
    await site.until_completed(process)
    over = await talk.send("cycle-request", asked, "status", "timeout")
    assert over == {"status": "rejected"}, "the training has ended"


async def test_the_pings_of_swiftsyft(site: Site, process: Fields) -> None:  # noqa: F811
    talk = Conversation(site, SWIFT)
    for _ in range(3):
        assert await talk.say({"type": "socket-ping"}) == {"type": "socket-ping", "alive": "True"}


@CLIENTS
async def test_the_key_as_a_bearer_token(site: Site, process: Fields, client: Client) -> None:  # noqa: F811
    """A later client may send the key in a header; then it gets the native files."""
    accepted = await Conversation(site, client).join()
    headers = {"Authorization": f"Bearer {accepted['request_key']}"}
    found = await site.web.get("/model-centric/get-model", params={"model_id": accepted["model_id"]}, headers=headers)
    assert found.status_code == 200
    assert b"weight" in found.content[:200]
