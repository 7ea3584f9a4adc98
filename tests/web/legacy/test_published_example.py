"""The script in ``examples/`` that uses the WebSocket alone, and the message that hosts a process.

Should happen: the script signs up, hosts, takes part, and its report becomes a checkpoint; on a Domain with an Owner it
says what to pass, and works with it.
Should not happen: anybody hosts without the permission; a message that is not valid hosts a process.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import websocket_2020
from pygrid.domain import build_domain
from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.settings import DomainSettings
from pygrid.storage.cycles import get_newest_cycle
from pygrid.storage.store import Store
from pygrid.tensors import encode
from pygrid.web.services import service
from support.eventually import eventually
from support.network import served
from support.training import PLAN, Site, config, model, owned_folder, site  # noqa: F401 - fixtures


async def test_the_example_of_the_websocket(settings: DomainSettings, capsys: pytest.CaptureFixture[str]) -> None:
    app = build_domain(settings)
    async with served(app) as port:
        num_examples = await asyncio.to_thread(websocket_2020.main, f"ws://127.0.0.1:{port}/")
        assert num_examples == 1797
        store = service(app.state, Store)
        await eventually(lambda: _is_completed(store))
        said = capsys.readouterr().out
        assert "is Owner, in the group students-" in said
        with pytest.raises(SystemExit, match=r"the Domain has an Owner.* ws://127.0.0.1:.* owner@example.org"):
            await asyncio.to_thread(websocket_2020.main, f"ws://127.0.0.1:{port}/")
        email = said.split()[0]
        await asyncio.to_thread(websocket_2020.main, f"ws://127.0.0.1:{port}/", email, websocket_2020.PASSWORD)
    assert f"{email} is Owner, in the group students-" in capsys.readouterr().out


async def _is_completed(store: Store) -> bool:
    return (await store.database.read(lambda connection: get_newest_cycle(connection, 1))).state == "completed"


async def test_hosting_over_the_websocket(site: Site) -> None:  # noqa: F811
    published = service(site.app.state, Published)
    caller = LegacyCaller(site.app.state.authenticator, "127.0.0.1")
    token = site.owner["Authorization"].removeprefix("Bearer ")

    async def host(token: str = token, **changes: Any) -> Any:
        form = {
            "model": encode(model()).hex(),
            "plans": {"training_plan": PLAN.hex()},
            "protocols": {},
            "averaging_plan": "",
            **config("over-the-socket"),
            **changes,
        }
        message = {"type": "model-centric/host-training", "token": token, "data": form}
        found = await answer(published, caller, json.dumps(message))
        assert isinstance(found, dict)
        return found["data"]

    assert await host(token="") == {"error": "Missing request key!"}
    assert await host(token="guessed") == {"error": "Invalid credentials!"}
    for changes in (
        {"model": "xyz"},
        {"model": ""},
        {"model": b"pickle".hex()},
        {"model": 5},
        {"plans": {}},
        {"plans": {"a/b": PLAN.hex()}},
        {"plans": {f"p{number}": PLAN.hex() for number in range(17)}},
        {"plans": {"training_plan": "00"}},
        {"averaging_plan": "zz"},
        {"client_config": {}},
        {"server_config": {"cycle_length": -1}},
        {"client_config": None},
    ):
        assert list(await host(**changes)) == ["error"], changes
    listed = await site.web.get("/model-centric/processes", headers=site.owner)
    assert listed.json()["processes"] == []
    assert await host() == {"status": "success"}
    assert await host() == {"error": "FL Process already exists."}
