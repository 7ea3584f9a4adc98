"""What refusals tell signed-in users about the app: its roles, and an Owner to ask."""

from __future__ import annotations

from pygrid.core.access import Grantors
from pygrid.storage import accounts as store
from pygrid.storage.sql.database import Database


class KnownGrantors:
    """The roles and the first Owner of an app, as messages of refusals name them; read again after a change."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._known: Grantors | None = None

    def get(self) -> Grantors:
        """The present roles and Owner. A short read in the caller's thread, the first time after a change."""
        if self._known is None:
            self._known = self._database.read_now(
                lambda connection: Grantors(
                    self._name, tuple(store.list_roles(connection)), store.find_owner_email(connection)
                )
            )
        return self._known

    def reset(self) -> None:
        """Forget them. Call it after the commit of a change to a role, or to a user."""
        self._known = None
