"""Accounts: sign-up, login, sessions, users, roles, groups."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from pygrid import codes
from pygrid.core.access import DOMAIN_ACCESS, AppAccess, Permission
from pygrid.core.oidc import ProviderConfig, RoleMapping
from pygrid.errors import InvalidConfig
from pygrid.features.accounts.browser_login import BrowserLogins
from pygrid.features.accounts.oidc.connections import ProviderConnections
from pygrid.features.accounts.oidc.service import OidcService
from pygrid.features.accounts.people import PeopleService
from pygrid.features.accounts.routes import account_routes
from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.sessions import SessionsService
from pygrid.features.accounts.signing import AccountRules
from pygrid.lifecycle import AppContext, BackgroundTask, Feature
from pygrid.settings import AppSettings
from pygrid.storage.audit import NotifiedWrites
from pygrid.storage.setup_code import find_setup_code
from pygrid.storage.sql.database import Database

SESSION_SWEEP_S = 3600.0
FAILURES_S = 60.0


@dataclass(frozen=True, kw_only=True)
class AccountsFeature(Feature):
    service: AccountService


def build(
    app: AppContext,
    database: Database,
    writes: NotifiedWrites,
    settings: AppSettings,
    access: AppAccess = DOMAIN_ACCESS,
) -> AccountsFeature:
    """Build the accounts of an app; it has groups, if a role of it can create them."""
    accounts = AccountService(
        database,
        writes,
        app.clock,
        AccountRules(
            app_name=settings.id,
            open_signup=settings.open_signup,
            access=access,
            setup_code=find_setup_code(settings),
            keys_give_own_role=settings.legacy_open,
        ),
    )

    provider = OidcService(database, writes, app.clock, accounts, settings.secret_key, _provider_config(settings))

    async def close() -> None:
        await provider.close()
        await accounts.failures.write_entry()
        accounts.close()

    return AccountsFeature(
        service=accounts,
        services=(
            accounts,
            SessionsService(database, app.clock, accounts),
            PeopleService(database, accounts),
            provider,
            ProviderConnections(database, writes, app.clock, accounts),
            BrowserLogins(database, writes, app.clock, accounts),
        ),
        routes=tuple(account_routes(with_groups=Permission.CREATE_GROUPS in access.permissions)),
        tasks=(
            BackgroundTask.every(SESSION_SWEEP_S, "remove-expired-sessions", accounts.remove_expired_sessions),
            BackgroundTask.every(FAILURES_S, "record-failed-logins", accounts.failures.write_entry),
        ),
        close=close,
    )


def _provider_config(settings: AppSettings) -> ProviderConfig | None:
    """Return the sign-in provider of the settings, None: there is none.

    Raises:
        InvalidConfig: ``oidc_extra_missing``.
    """
    if not settings.oidc_issuer:
        return None
    if find_spec("authlib") is None:
        raise InvalidConfig(
            "PYGRID_OIDC_ISSUER needs the libraries for a sign-in provider: pip install 'pygrid[oidc]'",
            code=codes.OIDC_EXTRA_MISSING,
        )
    return ProviderConfig(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret,
        scopes=settings.oidc_scopes,
        roles=RoleMapping.parse(settings.oidc_role_claim, settings.oidc_roles, settings.oidc_default_role),
    )
