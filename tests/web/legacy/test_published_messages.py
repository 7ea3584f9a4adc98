"""The WebSocket at ``/`` as clients of 2020 use it, against a Domain that runs on a real socket.

Should happen: each message has one answer, with its ``request_id``; models are hosted, listed, asked and deleted, in
the name of an account, with the published answers.
Should not happen: anybody does so without the permission; a message of whatever kind closes the WebSocket or stops the
Domain.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from pygrid.errors import Unauthenticated
from pygrid.legacy.websocket import LegacyCaller, Published, answer, domain_messages, ping
from pygrid.tensors import encode
from pygrid.web.services import service
from support.plans.models import WEIGHT, linear, lookup
from support.web import PASSWORD, People, serving

X = np.arange(8, dtype=np.float32).reshape(2, 4) / 10


class Talk:
    """One WebSocket of a client."""

    def __init__(self, socket: ClientConnection, token: str = "") -> None:
        self.socket, self.token = socket, token

    async def say(self, kind: str, **fields: Any) -> dict[str, Any]:
        message = {"type": kind, **({"token": self.token} if self.token else {}), **fields}
        return await self.send(json.dumps(message))

    async def send(self, frame: str | bytes) -> dict[str, Any]:
        await self.socket.send(frame)
        found = await self.socket.recv()
        assert isinstance(found, str)
        said: dict[str, Any] = json.loads(found)
        if isinstance(frame, str) and frame.startswith('{"type": "'):
            assert said.pop("type") == json.loads(frame)["type"]
        return said

    async def host(self, model: bytes, **fields: Any) -> dict[str, Any]:
        given = {"model_id": "scores", "encoding": "ISO-8859-1", "mpc": "False", "allow_download": "False", **fields}
        return await self.say("host-model", model=model.decode("ISO-8859-1"), **given)


@pytest.fixture
async def port(domain: Litestar) -> AsyncIterator[int]:
    async with serving(domain) as (_, port):
        yield port


@asynccontextmanager
async def talking(port: int, role: int | None = None) -> AsyncIterator[Talk]:
    """A WebSocket in the name of somebody with a role; the first one is the Owner."""
    token = ""
    if role is not None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web:
            people = People(web)
            if role == 4:
                headers = await people.owner()
            else:
                headers = await people.with_role(role, await people.log_in("owner@example.org"))
            token = headers["Authorization"].removeprefix("Bearer ")
    async with connect(f"ws://127.0.0.1:{port}/") as socket:
        yield Talk(socket, token)


async def test_a_model_from_hosting_to_deletion(port: int) -> None:
    async with talking(port, 4) as owner, talking(port, 1) as user:
        hosted = await owner.host(linear(), allow_remote_inference="True", request_id="r1")
        assert hosted == {"request_id": "r1", "success": True, "message": "Model saved with id: scores"}
        assert (await owner.host(linear()))["error"] == "Model id already exists."
        assert await user.say("list-models") == {"success": True, "models": ["scores"]}
        for data in (X.tolist(), {"x": X.tolist()}, encode({"x": X}).decode("ISO-8859-1")):
            said = await user.say("run-inference", model_id="scores", data=data, encoding="ISO-8859-1")
            assert said["success"], said
            np.testing.assert_allclose(said["prediction"], X @ WEIGHT, rtol=1e-5)
        assert (await user.say("delete-model", model_id="scores"))["code"] == "not_your_model"
        deleted = await owner.say("delete-model", model_id="scores")
        assert deleted == {"success": True, "message": "Model deleted with success!"}
        assert (await user.say("run-inference", model_id="scores", data=[]))["error"] == "Model ID not found!"


async def test_permissions_are_real(port: int) -> None:
    async with talking(port, 4) as owner, talking(port, 1) as user, talking(port) as nobody:
        refused = await user.host(linear())
        assert (refused["success"], refused["error"]) == (False, "User is not authorized for this operation!")
        await owner.host(linear())
        said = await user.say("run-inference", model_id="scores", data=X.tolist())
        assert said == {
            "success": False,
            "not_allowed": True,
            "error": "You're not allowed to run inferences on this model.",
            "code": "inference_not_allowed",
            "model_id": "scores",
        }
        for kind in ("list-models", "run-inference", "delete-model", "host-model"):
            assert (await nobody.say(kind, model_id="scores", model=""))["error"] == "Missing request key!"
            assert (await nobody.say(kind, model_id="scores", token="guessed"))["error"] == "Invalid credentials!"
        assert (await owner.say("run-inference", model_id="scores", data=X.tolist()))["success"]


async def test_authentication_names_the_account_until_its_session_ends(port: int) -> None:
    async with talking(port, 4), talking(port) as somebody:
        wrong = await somebody.say("authentication", username="owner@example.org", password="guess")
        assert wrong["error"] == "Invalid username/password!"
        assert (await somebody.say("list-models"))["error"] == "Missing request key!"
        good = await somebody.say("authentication", username="owner@example.org", password=PASSWORD)
        assert (good["success"], good["id"]) == ("True", "test")
        assert (await somebody.say("list-models"))["models"] == []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web:
            headers = {"Authorization": f"Bearer {good['token']}"}
            assert (await web.post("/users/logout", headers=headers)).status_code == 200
        assert (await somebody.say("list-models"))["error"] == "Invalid credentials!"
        for _ in range(11):
            said = await somebody.say("authentication", username="owner@example.org", password="guess")
        assert said["code"] == "too_many_attempts"


async def test_what_the_domain_says_of_itself(port: int) -> None:
    async with talking(port) as somebody:
        assert await somebody.say("get-id") == {"id": "test", "syft_version": "0.2.9"}
        assert await somebody.say("socket-ping", request_id=[1, None]) == {"request_id": [1, None], "alive": "True"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"data": [[1, 2, 3]]}, "shape_mismatch"),
        ({"data": [[1, 2], [3]]}, "inference_inputs"),
        ({"data": [["a", "b", "c", "d"]]}, "inference_inputs"),
        ({"data": [[None] * 4]}, "inference_inputs"),
        ({"data": [[2**70] * 4]}, "inference_inputs"),
        ({"data": {"z": [[1, 2, 3, 4]]}}, "inference_inputs"),
        ({"data": []}, "shape_mismatch"),
        ({"data": 5}, "inference_inputs"),
        ({}, "inference_inputs"),
        ({"data": "(\x00tensor of syft"}, "invalid_tensors"),
        ({"data": "\u20ac"}, "unknown_encoding"),
        ({"data": [[1, 2, 3, 4]], "model_id": 7}, "missing_field"),
        ({"data": "", "encoding": "utf-16"}, "unknown_encoding"),
        ({"data": [[1, 2, 3, 4]] * 65}, "inference_batch_size"),
    ],
)
async def test_questions_that_are_none(port: int, fields: dict[str, Any], code: str) -> None:
    async with talking(port, 4) as owner:
        await owner.host(linear())
        said = await owner.say("run-inference", **{"model_id": "scores", **fields})
        assert (said["success"], said["code"]) == (False, code)
        assert (await owner.say("socket-ping")) == {"alive": "True"}, "the WebSocket stays open"


async def test_numbers_that_an_input_can_not_hold(port: int) -> None:
    async with talking(port, 4) as owner:
        await owner.host(lookup())
        said = await owner.say("run-inference", model_id="scores", data=[1, 2])
        np.testing.assert_allclose(said["prediction"], WEIGHT[1:3], rtol=1e-6)
        assert (await owner.say("run-inference", model_id="scores", data=[1.5]))["code"] == "inference_inputs"
        assert (await owner.say("run-inference", model_id="scores", data=[99]))["code"] == "inference_failed"


async def test_answers_that_are_too_large_for_a_message(port: int) -> None:
    async with talking(port, 4) as owner:
        wide = linear(weight=np.ones((1, 40_000), np.float32))
        assert (await owner.host(wide, max_batch_size="64"))["success"]
        assert (await owner.say("run-inference", model_id="scores", data=[[1.0]]))["success"]
        said = await owner.say("run-inference", model_id="scores", data=[[1.0]] * 10)
        assert said["code"] == "inference_answer_too_large"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model_id": "a/b"}, "invalid_config"),
        ({"mpc": "True"}, "invalid_config"),
        ({"allow_download": "perhaps"}, "invalid_config"),
        ({"encoding": "hex"}, "unknown_encoding"),
    ],
)
async def test_models_that_are_not_hosted(port: int, fields: dict[str, Any], code: str) -> None:
    async with talking(port, 4) as owner:
        assert (await owner.host(linear(), **fields))["code"] == code
        assert (await owner.host(b"no model"))["code"] == "plan_graph_invalid"
        assert (await owner.say("list-models"))["models"] == []


async def test_messages_that_are_none(domain: Litestar, port: int) -> None:
    published: Published = service(domain.state, Published)
    async with talking(port) as somebody:
        said = await somebody.send("{type: 5}")
        assert said["error"] == "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
        assert "binary" in (await somebody.send(b"\x93syft"))["error"]
        assert "binary" in (await somebody.send(b""))["error"]
        assert (await somebody.send(""))["error"] == "Expecting value: line 1 column 1 (char 0)"
        assert (await somebody.send("[]"))["error"] == "a message must be a JSON object with a field 'type'"
        assert (await somebody.send("[" * 40))["code"] == "invalid_json"
        assert (await somebody.send("[" * 33 + "]" * 33))["code"] == "json_too_complex"
        assert (await somebody.send("[" + "[]," * 240_000 + "[]]"))["code"] == "json_too_complex"
        assert (await somebody.say("format-disk", request_id=3)) == {
            "request_id": 3,
            "success": False,
            "error": "unknown message type 'format-disk'; this app answers " + ", ".join(sorted(published.handlers)),
            "code": "unknown_type",
        }
        assert (await somebody.send('{"type": ["a"]}')) == {
            "type": ["a"],
            **(await somebody.send('{ "type": ["a"]}')),
        }
        assert (await somebody.send('{"type": ["a"]}'))["code"] == "unknown_type"
        with pytest.raises(ConnectionClosed) as caught:
            await somebody.send("x" * (17 * 1024**2))
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


async def test_more_clients_than_it_holds_are_sent_away(domain: Litestar, port: int) -> None:
    published: Published = service(domain.state, Published)
    published.max_sockets = 2
    async with talking(port) as first, talking(port) as second:
        assert await first.say("socket-ping") == await second.say("socket-ping") == {"alive": "True"}
        async with talking(port) as third:
            with pytest.raises(ConnectionClosed) as caught:
                await third.socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1013
        assert await first.say("socket-ping") == {"alive": "True"}


class _Nobody:
    async def authenticate(self, token: str) -> Any:
        raise Unauthenticated("nobody")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["type", "request_id", "data", "token"]) | st.text(), inner)
        ),
    )
)
async def test_whatever_comes_is_answered(value: Any) -> None:
    found = await answer(
        Published({**domain_messages("test"), "socket-ping": ping}), LegacyCaller(_Nobody(), ""), json.dumps(value)
    )
    assert isinstance(found, dict)
    assert "error" in found
    json.dumps(found)
