"""Apps of one process share the work of joining routes, and nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

from litestar import Router, get

from pygrid.domain import build_domain
from pygrid.features.accounts.service import AccountService
from pygrid.settings import load_settings
from pygrid.web.services import service
from support import shared_work
from support.web import People, assert_problem, running


async def test_two_apps_share_routes_and_nothing_else(tmp_path: Path) -> None:
    first, second = (build_domain(load_settings({}, data_dir=tmp_path / name, id=name)) for name in ("alice", "bob"))
    assert first.routes is second.routes
    assert service(first.state, AccountService) is not service(second.state, AccountService)
    async with running(first) as web, running(second) as other:
        headers = await People(web).owner()
        assert (await web.get("/users", headers=headers)).status_code == 200
        assert_problem(await other.get("/users", headers=headers), 403, "invalid_credentials")
        for client, name in ((web, "alice"), (other, "bob"), (web, "alice")):
            assert (await client.get("/identity")).json()["name"] == name
            assert (await client.get("/schema/openapi.json")).json()["info"]["title"] == f"Domain {name}"


async def test_an_app_with_other_routes_shares_none(tmp_path: Path) -> None:
    first, second = (
        build_domain(load_settings({}, data_dir=tmp_path / name, admin=admin))
        for name, admin in (("with", True), ("without", False))
    )
    async with running(first) as web, running(second) as other:
        assert [(await client.get("/admin/login")).status_code == 404 for client in (web, other)] == [False, True]


async def test_a_router_serves_two_apps_and_belongs_to_neither() -> None:
    """Nothing that a router refers to is copied, so that an app starts fast; a lock cannot be copied."""
    lock = threading.Lock()

    @get(["/first", "/second"])
    async def where() -> str:
        return "here"

    router = Router("/shared", route_handlers=[where], opt={"lock": lock})
    owners = [handler.owner for route in router.routes for handler in route.route_handlers]  # type: ignore[union-attr]
    apps = [shared_work._new_app([router], opt={"number": number}) for number in (1, 2)]
    for number, app in enumerate(apps, 1):
        async with running(app) as web:
            assert [(await web.get(f"/shared/{path}")).text for path in ("first", "second")] == ["here", "here"]
            assert (await web.post("/shared/first")).status_code == 405
        (handler,) = {app.route_handler_method_map[f"/shared/{path}"]["GET"] for path in ("first", "second")}
        assert handler.opt == {"number": number, "lock": lock}
        assert handler.ownership_layers[0] is app
    assert router.owner is None
    assert [handler.owner for route in router.routes for handler in route.route_handlers] == owners  # type: ignore[union-attr]
