"""Each published text and status of devices and model owners, against a Domain on a real socket.

Should happen: each row gets its answer, over HTTP and over the WebSocket.
Should not happen: a row changes the state of the process; a refusal ends a WebSocket.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.settings import DomainSettings
from pygrid.syft import Action, PlanMessage, Ref, write_plan, write_state
from support.pysyft import arrays, message
from support.training import gate_in_process
from support.web import People, serving

SECRET = "a secret of at least thirty-two bytes"
PROCESS = "Not found any process related with this cycle and worker ID."
KEY = "Invalid request key!"
WORKER = "Worker ID not found!"
JSON = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
SPEEDS = {"ping": 1, "download": 2, "upload": 3}
Fields = dict[str, Any]


def diff(value: float = 0.5) -> str:
    return base64.b64encode(write_state(arrays(value))).decode()


def error_of(answer: httpx.Response) -> Any:
    return answer.json().get("error") if "json" in answer.headers["content-type"] else answer.headers["content-type"]


@dataclass
class Domain:
    """A Domain of 2020 on a socket: processes with each kind of requirement, and two devices that take part."""

    web: httpx.AsyncClient
    socket: ClientConnection
    owner: Fields
    clock: ManualClock
    fields: Fields = field(default_factory=dict)
    """What the rows name: ids and keys."""

    async def host(self, name: str, **server_config: Any) -> None:
        form = message(name=name, max_diffs=5, min_diffs=5, **server_config)
        found = await self.web.post("/model-centric/host-training", json=form, headers=self.owner)
        assert found.status_code == 201, found.text

    async def join(self, name: str) -> Fields:
        """The id and the key of a new device, and its acceptance."""
        worker_id = (await self.post("authenticate", {"model_name": name})).json()["worker_id"]
        asked = {"worker_id": worker_id, "model": name, "version": "1.0"}
        accepted = (await self.post("cycle-request", asked)).json()
        return {"worker_id": worker_id, "request_key": accepted["request_key"], "accepted": accepted}

    async def post(self, path: str, fields: Fields) -> httpx.Response:
        return await self.web.post(f"/model-centric/{path}", json=fields)

    async def say(self, kind: str, fields: Any, **more: Any) -> Any:
        """The ``data`` of an answer over the WebSocket."""
        sent = {"type": f"model-centric/{kind}", "request_id": kind, "data": fields, **more}
        await self.socket.send(json.dumps(sent))
        found = json.loads(await self.socket.recv())
        assert list(found) == ["type", "request_id", "data"], found
        assert (found["type"], found["request_id"]) == (sent["type"], kind)
        return found["data"]

    async def state(self) -> list[Any]:
        """What no refusal may change."""
        found = (await self.web.get("/model-centric/processes", headers=self.owner)).json()["processes"]
        return [(one["name"], one["num_checkpoints"], one["cycle"]) for one in found]


@pytest.fixture
async def domain_of_2020(
    settings: DomainSettings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Domain]:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    async with (
        serving(build_domain(settings, clock=clock)) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as web,
        connect(f"ws://127.0.0.1:{port}/", proxy=None) as socket,
    ):
        one = Domain(web, socket, await People(web).owner(), clock)
        await one.host("digits")
        await one.host("fast", minimum_upload_speed=2, minimum_download_speed=0)
        await one.host("closed", authentication={"secret": SECRET})
        await one.host("asked", authentication={"endpoint": "http://127.0.0.1:1/"})
        mine, other = await one.join("digits"), await one.join("digits")
        fast = (await one.post("authenticate", {"model_name": "fast"})).json()["worker_id"]
        one.fields = {"mine": mine, "other": other, "fast": fast}
        yield one


AUTHENTICATE: dict[str, tuple[Fields, int, str]] = {
    "no token": ({"model_name": "closed"}, 400, "Authentication is required, please pass an 'auth_token'."),
    "an empty token": (
        {"model_name": "closed", "auth_token": ""},
        400,
        "Authentication is required, please pass an 'auth_token'.",
    ),
    "no JWT": ({"model_name": "closed", "auth_token": "x"}, 400, "The 'auth_token' you sent is invalid."),
    "a JWT of another secret": (
        {"model_name": "closed", "auth_token": jwt.encode({}, "x" * 32, "HS256")},
        400,
        "The 'auth_token' you sent is invalid.",
    ),
    "an unsigned JWT": (
        {"model_name": "closed", "auth_token": jwt.encode({}, None, "none")},
        400,
        "The 'auth_token' you sent is invalid.",
    ),
    "an expired JWT": (
        {"model_name": "closed", "auth_token": jwt.encode({"exp": 1}, SECRET, "HS256")},
        400,
        "The 'auth_token' you sent is invalid.",
    ),
    "the endpoint refuses": (
        {"model_name": "asked", "auth_token": "x"},
        400,
        "The 'auth_token' you sent did not pass 3rd party validation.",
    ),
    "an unknown process": ({"model_name": "none"}, 404, PROCESS),
    "an unknown version": ({"model_name": "digits", "model_version": "9"}, 404, PROCESS),
}


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_authentications(domain_of_2020: Domain, transport: str) -> None:
    here, wrong = domain_of_2020, []
    for row, (fields, status, text) in AUTHENTICATE.items():
        if transport == "http":
            answer = await here.post("authenticate", fields)
            found = (
                answer.status_code,
                error_of(answer),
            )
        else:
            found = (status, (await here.say("authenticate", fields)).get("error"))
        if found != (status, text):
            wrong.append((row, found))
    assert not wrong, "\n".join(map(str, wrong))
    good = {"model_name": "closed", "auth_token": jwt.encode({}, SECRET, "HS256")}
    for fields, is_tested in ((good, False), ({"model_name": "fast"}, True)):
        answer = await (here.say("authenticate", fields) if transport != "http" else here.post("authenticate", fields))
        body = answer if isinstance(answer, dict) else answer.json()
        assert body == {"status": "success", "worker_id": body["worker_id"], "requires_speed_test": is_tested}


CYCLE_REQUESTS: dict[str, tuple[Fields, str]] = {
    "no ping": ({"download": 1, "upload": 3}, "'ping' is required"),
    "no download": ({"ping": 1, "upload": 3}, "'download' is required"),
    "no upload": ({"ping": 1, "download": 1}, "'upload' is required"),
    "a negative ping": ({**SPEEDS, "ping": -1}, "'ping' needs to be a positive number"),
    "a negative download": ({**SPEEDS, "download": -0.5}, "'download' needs to be a positive number"),
    "a negative upload": ({**SPEEDS, "upload": -1}, "'upload' needs to be a positive number"),
    "a speed that is text": ({**SPEEDS, "upload": "fast"}, "'upload' needs to be a positive number"),
    "a speed in digits": ({**SPEEDS, "upload": "3.5"}, "'upload' needs to be a positive number"),
    "a speed that is a truth value": ({**SPEEDS, "ping": True}, "'ping' needs to be a positive number"),
    "a speed that is a list": ({**SPEEDS, "download": [1]}, "'download' needs to be a positive number"),
    "an unknown worker": ({**SPEEDS, "worker_id": "nobody"}, WORKER),
    "no worker": ({**SPEEDS, "worker_id": None}, WORKER),
    "a worker that is a number": ({**SPEEDS, "worker_id": 5}, WORKER),
    "an unknown process": ({**SPEEDS, "model": "none"}, PROCESS),
    "an unknown version": ({**SPEEDS, "version": "9"}, PROCESS),
    "no process": ({**SPEEDS, "model": None}, PROCESS),
    "a version that is a number": ({**SPEEDS, "version": 1.0}, PROCESS),
}


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_cycle_requests(domain_of_2020: Domain, transport: str) -> None:
    here, wrong = domain_of_2020, []
    before = await here.state()
    for row, (change, text) in CYCLE_REQUESTS.items():
        fields = {"worker_id": here.fields["fast"], "model": "fast", "version": "1.0", **change}
        fields = {name: value for name, value in fields.items() if value is not None}
        if transport == "http":
            answer = await here.post("cycle-request", fields)
            found: Any = (answer.status_code, answer.json())
        else:
            found = (200, await here.say("cycle-request", fields))
        if found != (200, {"status": "rejected", "error": text}):
            wrong.append((row, found))
    assert not wrong, "\n".join(map(str, wrong))
    slow = {"worker_id": here.fields["fast"], "model": "fast", "version": "1.0", **SPEEDS, "upload": 1.9}
    answer = await (here.say("cycle-request", slow) if transport != "http" else here.post("cycle-request", slow))
    body = answer if isinstance(answer, dict) else answer.json()
    assert body == {"status": "rejected", "timeout": 60}, "an ordinary refusal has no error"
    assert await here.state() == before


async def test_downloads(domain_of_2020: Domain) -> None:
    here, wrong = domain_of_2020, []
    mine, other = here.fields["mine"], here.fields["other"]
    accepted = mine["accepted"]
    good = {
        "get-model": {"model_id": accepted["model_id"]},
        "get-plan": {"plan_id": accepted["plans"]["training_plan"], "receive_operations_as": "tfjs"},
    }
    for route, query in good.items():
        own = {"worker_id": mine["worker_id"], "request_key": mine["request_key"], **query}
        name = next(iter(query))
        rows: dict[str, tuple[Fields, int, str]] = {
            "a wrong key": ({"request_key": "0" * 64}, 401, KEY),
            "the key of another": ({"request_key": other["request_key"]}, 401, KEY),
            "the id of another": ({"worker_id": other["worker_id"]}, 401, KEY),
            "an unknown worker": ({"worker_id": "nobody"}, 400, WORKER),
            "an unknown worker, a wrong key": ({"worker_id": "nobody", "request_key": "0" * 64}, 400, WORKER),
            "no worker": ({"worker_id": None}, 400, WORKER),
            "an unknown id": ({name: 99}, 400, "Model ID not found!" if route == "get-model" else "Plan ID not found!"),
            "an id that is no number": (
                {name: "x"},
                400,
                "Model ID not found!" if route == "get-model" else "Plan ID not found!",
            ),
            "no id": ({name: None}, 400, "Model ID not found!" if route == "get-model" else "Plan ID not found!"),
        }
        for row, (change, status, text) in rows.items():
            params = {key: value for key, value in {**own, **change}.items() if value is not None}
            answer = await here.web.get(f"/model-centric/{route}", params=params)
            found = (
                answer.status_code,
                error_of(answer),
            )
            if found != (status, text):
                wrong.append((route, row, found))
        answer = await here.web.get(f"/model-centric/{route}", params=own)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    own = {"worker_id": mine["worker_id"], "request_key": mine["request_key"]}
    for protocol in (1, "x", None):
        params = own if protocol is None else {**own, "protocol_id": protocol}
        answer = await here.web.get("/model-centric/get-protocol", params=params)
        found = (answer.status_code, error_of(answer))
        if found != (400, "Protocol ID not found!"):
            wrong.append(("get-protocol", str(protocol), found))
    assert not wrong, "\n".join(map(str, wrong))


REPORTS: dict[str, tuple[Fields, str]] = {
    "a wrong key": ({"request_key": "0" * 64}, KEY),
    "an empty key": ({"request_key": ""}, "Missing request key!"),
    "no key": ({"request_key": None}, "Missing request key!"),
    "a key that is a number": ({"request_key": 5}, KEY),
    "an unknown worker": ({"worker_id": "nobody"}, KEY),
    "no worker": ({"worker_id": None}, WORKER),
    "no diff": ({"diff": None}, "diff"),
    "a diff that is a number": ({"diff": 5}, "diff"),
    "an empty diff": ({"diff": ""}, "the diff has 0 arrays; the model has 2"),
    "no base64": ({"diff": "no base64!"}, "'diff' is not base64"),
    "no protobuf": ({"diff": base64.b64encode(b"\xff" * 40).decode()}, "protobuf"),
    "hexadecimal": ({"diff": write_state(arrays()).hex()}, "protobuf"),
    "another shape": ({"diff": base64.b64encode(write_state([arrays()[0].T, arrays()[1]])).decode()}, "shape"),
    "another order": ({"diff": base64.b64encode(write_state(arrays()[::-1])).decode()}, "shape"),
    "another type": (
        {"diff": base64.b64encode(write_state([one.astype("float64") for one in arrays()])).decode()},
        "float32",
    ),
    "integers": (
        {"diff": base64.b64encode(write_state([one.astype("int64") for one in arrays()])).decode()},
        "array 0 of the diff is int64; a diff is float32",
    ),
    "too few arrays": ({"diff": base64.b64encode(write_state(arrays()[:1])).decode()}, "the diff has 1 arrays"),
    "too many arrays": ({"diff": base64.b64encode(write_state(arrays() * 2)).decode()}, "the diff has 4 arrays"),
    "NaN": ({"diff": diff(float("nan"))}, "NaN"),
    "infinity": ({"diff": diff(float("inf"))}, "NaN or infinite"),
    "a pickle": ({"diff": base64.b64encode(b"\x80\x04\x95cos\nsystem\n.").decode()}, "protobuf"),
}


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_reports(domain_of_2020: Domain, transport: str) -> None:
    here, wrong = domain_of_2020, []
    before = await here.state()
    own = {name: here.fields["mine"][name] for name in ("worker_id", "request_key")}
    for row, (change, text) in REPORTS.items():
        fields = {key: value for key, value in {**own, "diff": diff(), **change}.items() if value is not None}
        if transport == "http":
            answer = await here.post("report", fields)
            found: Any = (answer.status_code, answer.json())
        else:
            found = (200, await here.say("report", fields))
        if found[0] != 200 or list(found[1]) != ["error"] or text not in found[1]["error"]:
            wrong.append((row, found))
    assert not wrong, "\n".join(map(str, wrong))
    assert await here.state() == before
    lines = base64.encodebytes(write_state(arrays(0.5))).decode().replace("\n", "\r\n")
    for text, expected in ((lines, ["status"]), (diff(0.5), ["status"]), (diff(0.25), ["error"])):
        fields = {**own, "diff": text}
        answer = await (here.say("report", fields) if transport != "http" else here.post("report", fields))
        body = answer if isinstance(answer, dict) else answer.json()
        assert list(body) == expected, body


async def test_a_cycle_that_has_ended(domain_of_2020: Domain) -> None:
    here = domain_of_2020
    mine, other = here.fields["mine"], here.fields["other"]
    here.clock.advance(120)
    query = {"worker_id": mine["worker_id"], "request_key": mine["request_key"]}
    for route, name, value in (
        ("get-model", "model_id", mine["accepted"]["model_id"]),
        ("get-plan", "plan_id", mine["accepted"]["plans"]["training_plan"]),
    ):
        answer = await here.web.get(f"/model-centric/{route}", params={**query, name: value})
        assert (answer.status_code, answer.json()["error"]) == (400, "Cycle not found!"), route
    assert (await here.post("report", {**query, "diff": diff()})).json() == {"error": "Cycle not found!"}
    query = {"worker_id": other["worker_id"], "request_key": other["request_key"]}
    assert await here.say("report", {**query, "diff": diff()}) == {"error": "Cycle not found!"}


NO_JSON = {
    "{bad": JSON,
    '{"model_name": }': "Expecting value: line 1 column 16 (char 15)",
    "": "Expecting value: line 1 column 1 (char 0)",
    "nul": "Expecting value: line 1 column 1 (char 0)",
}
NO_OBJECT = ("[]", "[1, 2]", "5", "null", '"text"', "true")


async def test_bad_json(domain_of_2020: Domain) -> None:
    here, wrong = domain_of_2020, []
    for path in ("authenticate", "cycle-request", "report"):
        for body, text in NO_JSON.items():
            answer = await here.web.post(f"/model-centric/{path}", content=body)
            if (answer.status_code, answer.json()["error"]) != (400, text):
                wrong.append((path, body, answer.text))
        for body in NO_OBJECT:
            answer = await here.web.post(f"/model-centric/{path}", content=body)
            status, names = {
                "authenticate": (400, ["error"]),
                "cycle-request": (200, ["status", "error"]),
                "report": (200, ["error"]),
            }[path]
            found = answer.json()
            if answer.status_code != status or not found["error"] or (status == 200 and list(found) != names):
                wrong.append((path, body, answer.text))
    for body in ("{bad", "[]", "5", "null"):
        answer = await here.web.post("/model-centric/host-training", content=body, headers=here.owner)
        if answer.status_code != 400 or not answer.json()["error"]:
            wrong.append(("host-training", body, answer.text))
    assert not wrong, "\n".join(map(str, wrong))


HOSTING: dict[str, tuple[Fields, str]] = {
    "a name and version that are taken": ({}, "FL Process already exists."),
    "an unknown operation": (
        {"plans": {"p": PlanMessage("p", (1,), (2,), (Action("torch.svd", (Ref(1),), 2),))}},
        "Failed to translate a Plan",
    ),
    "a plan that is no protobuf": ({"plans": {"p": b"\xff\xff\xff"}}, "Plan is not valid"),
    "an empty plan": ({"plans": {"p": b""}}, "Plan is not valid"),
    "no cycle_length": ({"server_config": {"num_cycles": 1}}, "cycle_length"),
    "no name": ({"client_config": {"version": "1.0"}}, "name"),
    "no version": ({"client_config": {"name": "new"}}, "version"),
    "a model that is no hexadecimal text": ({"model": "xyz"}, "hexadecimal"),
    "an odd number of digits": ({"model": "abc"}, "hexadecimal"),
    "a plan that is no hexadecimal text": ({"plans": {"p": "xyz"}}, "hexadecimal"),
    "an averaging plan that is no hexadecimal text": ({"averaging_plan": "xyz"}, "hexadecimal"),
    "no model": ({"model": None}, "model"),
    "no plans": ({"plans": None}, "plans"),
    "no averaging plan at all": ({"averaging_plan": 5}, "averaging_plan"),
}


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_hosting(domain_of_2020: Domain, transport: str) -> None:
    here, wrong = domain_of_2020, []
    before = await here.state()
    token = here.owner["Authorization"].removeprefix("Bearer ")
    for row, (change, text) in HOSTING.items():
        form = {**message(name="digits" if not change else "new"), **change}
        if isinstance(form["plans"], dict):
            form["plans"] = {name: _hex(plan) for name, plan in form["plans"].items()}
        form = {name: value for name, value in form.items() if value is not None}
        if transport == "http":
            answer = await here.web.post("/model-centric/host-training", json=form, headers=here.owner)
            status, error = answer.status_code, answer.json().get("error", "")
            is_right = status == (409 if not change else 400)
        else:
            said = await here.say("host-training", form, token=token)
            error, is_right = said.get("error", ""), list(said) == ["error"]
        if not is_right or text not in error:
            wrong.append((row, error))
    assert not wrong, "\n".join(map(str, wrong))
    assert await here.state() == before


def _hex(plan: PlanMessage | bytes | str) -> str:
    if isinstance(plan, str):
        return plan
    return (write_plan(plan) if isinstance(plan, PlanMessage) else plan).hex()
