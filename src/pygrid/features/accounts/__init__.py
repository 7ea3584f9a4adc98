"""Accounts: sign-up, login, sessions, users, roles, groups."""

from __future__ import annotations

from dataclasses import dataclass

from pygrid.core.access import DOMAIN_ACCESS, AppAccess, Permission
from pygrid.features.accounts.routes import account_routes
from pygrid.features.accounts.service import AccountService
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.settings import AppSettings
from pygrid.storage.audit import AuditedWrites
from pygrid.storage.setup_code import find_setup_code
from pygrid.storage.sql.database import Database

SESSION_SWEEP_S = 3600.0
FAILURES_S = 60.0


@dataclass(frozen=True, kw_only=True)
class AccountsFeature(Feature):
    """The accounts of an app."""

    service: AccountService


def build(
    app: AppContext,
    database: Database,
    writes: AuditedWrites | Database,
    settings: AppSettings,
    access: AppAccess = DOMAIN_ACCESS,
) -> AccountsFeature:
    """Build the accounts of an app; it has groups, if a role of it can create them."""
    accounts = AccountService(
        database,
        writes,
        app.clock,
        open_signup=settings.open_signup,
        access=access,
        setup_code=find_setup_code(settings),
    )

    async def close() -> None:
        await accounts.failures.write_entry()
        accounts.close()

    return AccountsFeature(
        service=accounts,
        services=(accounts,),
        routes=tuple(account_routes(with_groups=Permission.CREATE_GROUPS in access.permissions)),
        tasks=(
            BackgroundTask.every(SESSION_SWEEP_S, "remove-expired-sessions", accounts.remove_expired_sessions),
            BackgroundTask.every(FAILURES_S, "record-failed-logins", accounts.failures.write_entry),
        ),
        close=close,
    )
