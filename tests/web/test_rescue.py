"""A lost password of a sole Owner: a code from the machine of the app.

Should happen: the command makes a code while the app runs, and the Owner chooses a password with it.
Should not happen: the command changes anything else, or guesses whose account is meant.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar import Litestar
from typer.testing import CliRunner

from pygrid.cli import app
from pygrid.clock import SystemClock
from pygrid.domain import build_domain
from pygrid.errors import PygridError
from pygrid.settings import load_settings
from pygrid.storage.audit import list_entries, verify
from pygrid.storage.ownership import FolderLock
from pygrid.storage.sql.database import Database
from pygrid.web.services import service
from support.web import People, running

NEW = "another horse battery"


@pytest.fixture
def domain_of_now(tmp_path: Path) -> Litestar:
    lock = FolderLock.acquire(tmp_path, "domain")
    lock.announce("http://127.0.0.1:7777")
    return build_domain(load_settings({}, data_dir=tmp_path, id="test"), clock=SystemClock(), folder_lock=lock)


async def test_a_sole_owner_gets_back_in(domain_of_now: Litestar, tmp_path: Path) -> None:
    async with running(domain_of_now) as web:
        before = await People(web).owner()
        shown = CliRunner().invoke(app, ["user", "rescue", "--data-dir", str(tmp_path)])
        assert shown.exit_code == 0, shown.output
        words = shown.output.split()
        assert "owner@example.org" in words
        assert words[-5:-1] == ["pygrid", "account", "recover", "http://127.0.0.1:7777"]
        answer = await web.post("/users/password-reset", json={"code": words[-1], "password": NEW})
        assert answer.json() == {"success": True, "email": "owner@example.org"}
        assert (await web.get("/users/me", headers=before)).status_code == 403
        await People(web).log_in("owner@example.org", NEW)
        database = service(domain_of_now.state, Database)
        made = [entry for entry in database.read_now(list_entries) if entry.action == "password_reset_made"]
        assert [(entry.actor, entry.data) for entry in made] == [(None, {"user_id": 1, "by": "machine"})]
        assert database.read_now(lambda connection: verify(connection, None)) is None


async def test_whose_account_must_be_clear(domain_of_now: Litestar, tmp_path: Path) -> None:
    async with running(domain_of_now) as web:
        owner = await People(web).owner()
        await People(web).with_role(4, owner, "second@example.org")
        for arguments in ([], ["nobody@example.org"]):
            failed = CliRunner().invoke(app, ["user", "rescue", *arguments, "--data-dir", str(tmp_path)])
            assert isinstance(failed.exception, PygridError)
            assert "owner@example.org, second@example.org" in failed.exception.detail
        shown = CliRunner().invoke(app, ["user", "rescue", "SECOND@example.org", "--data-dir", str(tmp_path)])
        assert "second@example.org" in shown.output
    empty = CliRunner().invoke(app, ["user", "rescue", "--network", "--data-dir", str(tmp_path / "other")])
    assert isinstance(empty.exception, PygridError)
    assert empty.exception.code == "no_domain_data"
