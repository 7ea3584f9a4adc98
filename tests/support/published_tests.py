"""Runs the table of PyGrid's own tests (`tests/vectors/published_tests`) against an app in process.

A state is a set of stored roles, users and groups. They are written as the published tests wrote them: without the
checks of foreign keys, so that a user can have a role that does not exist. Ids of users and groups are the published
ones. Roles keep the ids that pygrid gives to the role User and the role Owner, so the ids of roles are translated in
both directions.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import sqlalchemy as sa
from litestar import Litestar

from pygrid.clock import ManualClock
from pygrid.core.access import DEFAULT_ROLES, Permission
from pygrid.features.accounts.passwords import Passwords
from pygrid.ids import hash_secret
from pygrid.legacy.websocket import LegacyCaller, Published, answer
from pygrid.storage import accounts
from pygrid.storage.user_sessions import put_session
from pygrid.web.services import service

FOLDER = Path(__file__).parents[1] / "vectors" / "published_tests"
EMAILS = ("tech@gibberish.com", "anemail@anemail.com")
"""Of the users of a state that names none."""
NO_ID = 99
"""A role that does not exist."""
TABLES = ("memberships", "sessions", "users", "groups", "roles", "first_owner")
SECRET = "a secret of at least thirty-two bytes"
TOKENS = {
    "other secret": jwt.encode({"id": 1}, "peppers " + SECRET, "HS256"),
    "no id": jwt.encode({"asdsadad": 124356}, SECRET, "HS256"),
}
"""Tokens of no user: in 2020 a JWT of another secret, and one without an ``id``."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One test of PyGrid, by one transport."""

    transport: str
    """``http`` or ``ws``."""
    fields: Fields

    @property
    def name(self) -> str:
        return str(self.fields.get("ws", self.fields["test"]) if self.transport == "ws" else self.fields["test"])

    @property
    def is_runnable(self) -> bool:
        """Whether pytest runs it; not if a later test of the same name replaces it."""
        return self.transport not in self.fields.get("overridden", ())

    @property
    def refused(self) -> str | None:
        """The published behaviour of the table of differences, for a row that fails on purpose."""
        return self.fields.get("refused")


class Table:
    """A file of `FOLDER`."""

    def __init__(self, name: str) -> None:
        self.data: Fields = tomllib.loads((FOLDER / f"{name}.toml").read_text())
        self.states: list[Fields] = self.data["state"]

    def rows(self, state: Fields) -> Iterator[Row]:
        """The rows of a state, those over HTTP first."""
        for transport in ("http", "ws"):
            for fields in state["rows"]:
                if fields.get("only", transport) == transport and (transport == "http" or "message" in self.of(fields)):
                    yield Row(transport, fields)

    def of(self, fields: Fields) -> Fields:
        """The operation of a row."""
        found: Fields = self.data["operations"][fields["do"]]
        return found

    def body(self, fields: Fields) -> Any:
        """The body of a row: an object, a text, or None."""
        body = fields.get("body")
        return self.data["bodies"].get(body, body) if isinstance(body, str) else body

    def more_checks(self) -> Fields:
        """A state with published checks that the tests of PyGrid leave out, for each operation on accounts.

        Without credentials, with bad JSON, without the fields, with fields that are null.
        """
        rows: list[Fields] = []
        bodies = {fields["do"]: self.body(fields) for state in self.states for fields in state["rows"]}
        for name, operation in self.data["operations"].items():
            if "message" not in operation:
                continue
            asked = {"do": name, "by": 1, **({"id": 1} if "{}" in operation["route"] else {})}
            if name not in ("sign_up", "log_in"):
                rows.append({**asked, "by": None, "test": f"{name}: no credentials", "error": "missing"})
            if operation["route"].startswith(("POST", "PUT")):
                rows.append({**asked, "test": f"{name}: bad JSON", "body": "{bad", "only": "http", "error": "bad_json"})
                for body in ({}, dict.fromkeys(bodies[name])) if name != "edit_role" else ():
                    rows.append({**asked, "test": f"{name}: {body}", "body": body, "error": "missing"})
        return {"roles": ["Owner", "User"], "users": [{"role": 1}], "rows": rows}

    def all_rows(self) -> Iterator[Row]:
        for state in self.states:
            yield from self.rows(state)

    def count(self) -> dict[str, int]:
        """Number of runnable tests, by the first part of their routes and by transport."""
        runnable = [row for row in self.all_rows() if row.is_runnable]
        return dict(Counter(f"{self.of(row.fields)['route'].split('/')[1]} {row.transport}" for row in runnable))


class PublishedTests:
    """Runs the rows of a table, and notes those with another answer in ``failed``."""

    def __init__(
        self, table: Table, app: Litestar, web: httpx.AsyncClient, clock: ManualClock, database_url: str
    ) -> None:
        self.failed: list[tuple[Row, Any]] = []
        self._table = table
        self._app = app
        self._web = web
        self._clock = clock
        # A connection without `PRAGMA foreign_keys`.
        self._engine = sa.create_engine(database_url)
        self._known = {role.name: role.id for role in DEFAULT_ROLES}
        self._roles: list[int] = []
        self._passwords: dict[str, str] = {}

    def close(self) -> None:
        self._engine.dispose()

    async def run(self, states: Sequence[Fields]) -> None:
        for state in states:
            await self._build(state)
            for row in self._table.rows(state):
                before = self._stored()
                problem = await self._try(row, before)
                if problem is not None:
                    self.failed.append((row, problem))
                if problem is not None or "error" not in row.fields or row.refused:
                    await self._build(state)
                self._clock.advance(61)  # a few wrong keys a minute are answered as published

    # States

    async def _build(self, state: Fields) -> None:
        """Replace all roles, users and groups, and begin a session for each user."""
        hashes = {password: await self._hash(password) for one in state["users"] if (password := one.get("password"))}
        with self._engine.begin() as connection:
            for table in TABLES:
                connection.execute(sa.text(f"DELETE FROM {table}"))
            connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name IN ('users', 'groups', 'roles')"))
            self._roles = [self._put_role(connection, name) for name in state["roles"]]
            for number, user in enumerate(state["users"], start=1):
                self._put_user(connection, number, user, hashes)
            for name in state.get("groups", ()):
                accounts.put_group(connection, name)
            for user_id, group_ids in state.get("members", {}).items():
                accounts.put_memberships(connection, int(user_id), group_ids)

    async def _hash(self, password: str) -> str:
        if password not in self._passwords:
            passwords = Passwords()
            self._passwords[password] = await passwords.hash(password)
            passwords.close()
        return self._passwords[password]

    def _put_role(self, connection: sa.Connection, name: str) -> int:
        flags = {str(permission): permission in self._table.data["roles"][name] for permission in Permission}
        connection.execute(sa.insert(accounts.roles).values(id=self._known[name], name=name, **flags))
        return self._known[name]

    def _put_user(self, connection: sa.Connection, number: int, user: Fields, hashes: Mapping[str, str]) -> None:
        now = self._clock.now()
        accounts.acquire_first_owner(connection, now)
        user_id = accounts.put_user(
            connection,
            email=user.get("email") or EMAILS[number - 1],
            password_hash=hashes.get(user.get("password", ""), "no password"),
            private_key_hash=hash_secret(key_of(number)),
            role_id=self._ours(user["role"]),
            now=now,
        )
        assert user_id == number
        put_session(connection, hash_secret(token_of(number)), user_id, now)

    def _ours(self, role: int) -> int:
        """Our id of a published id of a role."""
        return self._roles[role - 1] if role <= len(self._roles) else NO_ID

    def _published(self, path: str, found: Any) -> Any:
        """The published form of what is found at a path: the ids of roles are translated."""
        if not path.endswith(("role.id", "roles.id")):
            return found
        if isinstance(found, list):
            return [self._published(path, one) for one in found]
        return self._roles.index(found) + 1 if found in self._roles else len(self._roles) + 1

    def _stored(self) -> Fields:
        """All users, roles and groups."""
        with self._engine.connect() as connection:
            rows = {
                "users": accounts.list_users(connection),
                "roles": accounts.list_roles(connection),
                "groups": accounts.list_groups(connection),
            }
        return {name: [dataclasses.asdict(one) for one in found] for name, found in rows.items()}

    # Rows

    async def _try(self, row: Row, before: Fields) -> Any:
        """What differs from the published answer, None: nothing."""
        status, found = await self._send(row)
        if (error := row.fields.get("error")) is not None:
            wanted = self._table.data["errors"][error]
            expected = wanted["status"] if row.transport == "http" else None
            if (status, found.get("error")) != (expected, wanted["text"]):
                return status, found
            return None if self._stored() == before else "it changed something"
        if status not in (200, None) or "error" in found:
            return status, found
        stored = self._stored()
        for where, paths in ((found, row.fields["gives"]), (stored, row.fields.get("after", {}))):
            for path, wanted in paths.items():
                if path != "password" and self._published(path, at(where, path)) != wanted:
                    return path, found, stored
        if row.fields.get("key_of_64") and len(found["user"]["private_key"]) != 64:
            return found
        if "logs_in" in row.fields and self._user_of(found["token"]) != row.fields["logs_in"]:
            return found
        if (login := row.fields.get("after", {}).get("password")) is not None:
            answer = await self._web.post("/users/login", json=login)
            return None if answer.status_code == 200 else answer.text
        return None

    def _user_of(self, token: str) -> int | None:
        with self._engine.connect() as connection:
            session = accounts.find_session(connection, hash_secret(token))
        return None if session is None else session.principal.user_id

    async def _send(self, row: Row) -> tuple[int | None, Any]:
        """The status, None over the WebSocket, and the answer."""
        fields, operation = row.fields, self._table.of(row.fields)
        body, credentials = self._table.body(fields), self._credentials(fields)
        if isinstance(body, dict) and isinstance(body.get("role"), int):
            body = {**body, "role": self._ours(body["role"])}
        target = fields.get("id")
        if target is not None and "/roles/" in operation["route"]:
            target = self._ours(target)
        if row.transport == "http":
            method, _, path = operation["route"].partition(" ")
            # The spelling of the published tests.
            headers = {"content-type": "application/json"} | {n.replace("-", "_"): v for n, v in credentials.items()}
            content = body if isinstance(body, str) or body is None else json.dumps(body)
            said = await self._web.request(method, path.format(target), content=content, headers=headers)
            return said.status_code, said.json()
        wrapped = {} if body is None else {operation["wraps"]: body} if "wraps" in operation else body
        message = {**wrapped, **({} if target is None else {"id": target}), **credentials}
        return None, await say(self._app, {"type": operation["message"], **message})

    def _credentials(self, fields: Fields) -> Fields:
        token, key = (fields.get(name, fields.get("by")) for name in ("token", "key"))
        found = {
            "token": TOKENS.get(token, "") if isinstance(token, str) else token and token_of(token),
            "private-key": key if isinstance(key, str) else key and key_of(key),
        }
        return {name: value for name, value in found.items() if value}


async def say(app: Litestar, message: Fields) -> Any:
    """The answer to a message without ``request_id``; a text of JSON in it is decoded."""
    caller = LegacyCaller(app.state.authenticator, "127.0.0.1")
    found = await answer(service(app.state, Published), caller, json.dumps(message))
    return json.loads(found) if isinstance(found, str) else found


def at(value: Any, path: str) -> Any:
    """What is at a path, such as ``users.role.id``; of a list, that of each of its members."""
    if not path:
        return value
    if isinstance(value, list | tuple):
        return [at(one, path) for one in value]
    name, _, rest = path.partition(".")
    return at(value.get(name), rest) if isinstance(value, dict) else None


def token_of(user: int) -> str:
    return f"the session of user {user}"


def key_of(user: int) -> str:
    return f"{user:064x}"
