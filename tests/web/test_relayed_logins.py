"""Attempts to log in that came through a Network, which may lie about where they came from."""

from __future__ import annotations

import pytest

from pygrid.clock import ManualClock
from pygrid.domain import build_domain
from pygrid.errors import InvalidCredentials, TooManyRequests
from pygrid.features.accounts.service import AccountService
from pygrid.settings import load_settings
from pygrid.web.services import service
from support.web import PASSWORD, People, running


async def test_other_addresses_do_not_make_more_attempts(tmp_path):
    clock = ManualClock()
    app = build_domain(load_settings({}, data_dir=tmp_path), clock=clock)
    async with running(app) as web:
        people = People(web)
        await people.sign_up("ann@example.org")
        await people.sign_up("bob@example.org")
        accounts = service(app.state, AccountService)
        for number in range(100):
            with pytest.raises(InvalidCredentials):
                await accounts.log_in("ann@example.org", "guess", f"relayed:10.0.0.{number}")
        with pytest.raises(TooManyRequests) as refused:
            await accounts.log_in("ann@example.org", PASSWORD, "relayed:10.0.1.1")
        assert refused.value.code == "too_many_attempts"
        # Neither others, nor who comes directly, pay for it.
        assert await accounts.log_in("bob@example.org", PASSWORD, "relayed:10.0.0.1")
        assert await accounts.log_in("ann@example.org", PASSWORD, "10.0.0.1")
        clock.advance(65)
        assert await accounts.log_in("ann@example.org", PASSWORD, "relayed:10.0.1.1")
