"""Apps of one process share the work of joining routes, and nothing else."""

from __future__ import annotations

from pathlib import Path

from pygrid.domain import build_domain
from pygrid.features.accounts.service import AccountService
from pygrid.settings import load_settings
from pygrid.web.services import service
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
