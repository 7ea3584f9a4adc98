"""Work that every app in a test repeats with the same outcome, done once for each process of the test run.

The apps of the tests are otherwise as they are in production: only the time is saved. So are those that tests start as
forks (`support.warm_starts`); new interpreters do not use this module.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import jinja2
import sqlalchemy as sa
from httpx._transports import default as httpx_transports
from litestar import Litestar, Router
from litestar._openapi.plugin import OpenAPIPlugin
from litestar.datastructures import State
from litestar.events import SimpleEventEmitter
from litestar.openapi import OpenAPIConfig
from litestar.plugins import PluginRegistry
from litestar.routes import HTTPRoute
from litestar.stores.registry import StoreRegistry

from pygrid.features.accounts import passwords
from pygrid.storage.sql import database, migrations
from pygrid.ui import render
from pygrid.ui.static import StaticFiles
from pygrid.web import app

PASSWORD_COST = {"TIME_COST": passwords.TIME_COST, "MEMORY_KIB": passwords.MEMORY_KIB}
"""What a hash of a password costs in production."""

_compile_template = jinja2.Environment.compile
_prepare_sqlite = database._prepare_sqlite
_upgrade = migrations._upgrade
_present_revision = migrations._present_revision
_new_app = app.MsgspecApp
_make_engine = database._make_engine
_make_ssl_context = httpx_transports.create_ssl_context


def share() -> None:
    """Share this work among all apps of this process."""
    app.MsgspecApp = _app  # type: ignore[assignment, misc]
    StaticFiles.load = functools.cache(StaticFiles.load)  # type: ignore[method-assign]
    jinja2.Environment.compile = _compiled  # type: ignore[method-assign, assignment]
    render._read_all = functools.cache(render._read_all)
    database._make_engine = _engine
    httpx_transports.create_ssl_context = _ssl_context
    migrations._upgrade = _upgraded
    migrations._present_revision = _copied_revision
    # No test cuts the power, which is all that these protect from. The disk is slow.
    database._prepare_sqlite = _sqlite_without_waits
    os.fsync = os.fdatasync = lambda _: None  # type: ignore[assignment]
    passwords.TIME_COST, passwords.MEMORY_KIB = 1, 8 * passwords.PARALLELISM


# Apps: reading the annotations of handlers and joining their routes takes most of the time in which one is built.


_apps: dict[Any, Litestar] = {}


def _app(
    *, route_handlers: Sequence[Any], state: State, lifespan: list[Any], openapi_config: OpenAPIConfig, **options: Any
) -> Litestar:
    """An app with a state of its own; it shares its routes with the first app that has the same handlers."""
    key = _handlers_of(route_handlers)
    if key is None:
        return _new_app(
            route_handlers=route_handlers, state=state, lifespan=lifespan, openapi_config=openapi_config, **options
        )
    if key not in _apps:
        _apps[key] = _new_app(route_handlers=route_handlers, openapi_config=openapi_config, **options)
    made = copy(_apps[key])
    made.state, made._lifespan_managers, made.openapi_config = state, lifespan, openapi_config
    made.event_emitter, made.stores = SimpleEventEmitter([]), StoreRegistry()
    document = copy(made.plugins.get(OpenAPIPlugin))
    document.app, document._openapi_config = made, openapi_config
    made.plugins = PluginRegistry([document, *(one for one in made.plugins if not isinstance(one, OpenAPIPlugin))])
    made.asgi_router = copy(made.asgi_router)
    made.asgi_router.app = made
    made.asgi_handler = made._create_asgi_handler()
    return made


def _handlers_of(routes: Sequence[Any]) -> frozenset[Any] | None:
    """Path, methods and function of each handler; None if a function is not a module's and so may belong to one app."""
    found = set()
    for one in routes:
        for path, handler in _paths_of(one):
            if "<locals>" in handler.fn.__qualname__:
                return None
            found.add((path, frozenset(getattr(handler, "http_methods", ())), handler.fn))
    return frozenset(found)


def _paths_of(one: Any) -> Iterator[tuple[str, Any]]:
    """The handlers of a router, without those that Litestar adds to answer OPTIONS, or a handler by itself."""
    if not isinstance(one, Router):
        yield from ((path, one) for path in one.paths)
        return
    for route in one.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]:
            if not handler.fn.__qualname__.startswith("HTTPRoute.create_options_handler."):
                yield route.path, handler


# Templates of the web console


_codes: dict[Any, Any] = {}


def _compiled(self: jinja2.Environment, source: Any, *args: Any, **more: Any) -> Any:
    name, filename = (*args, None, None)[:2]
    key = (source, name, filename, self.autoescape, self.trim_blocks, self.lstrip_blocks, tuple(self.filters))
    if more or len(args) > 2 or not isinstance(source, str) or callable(self.autoescape):
        return _compile_template(self, source, *args, **more)
    if key not in _codes:
        _codes[key] = _compile_template(self, source, *args)
    return _codes[key]


# Clients of the tests


_SSL_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_ssl_contexts: dict[Any, ssl.SSLContext] = {}


def _ssl_context(verify: Any, cert: Any, trust_env: bool) -> ssl.SSLContext:
    """The context of a client of httpx, shared by all that trust the usual authorities: reading them takes 18 ms."""
    if verify is not True or cert is not None:
        return _make_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    key = (trust_env, *map(os.environ.get, _SSL_VARIABLES))
    if key not in _ssl_contexts:
        _ssl_contexts[key] = _make_ssl_context(trust_env=trust_env)
    return _ssl_contexts[key]


# Databases


_MAX_STATEMENTS = 2000
_dialects: dict[str, sa.Dialect] = {}
_compiled_statements: dict[str, Any] = {}


def _engine(url: sa.URL, name: str) -> sa.Engine:
    """An engine that shares the compiled statements of all others of its kind: compiling takes longer than running.

    They belong to a dialect, so the dialect of an engine that has connected before is shared too.
    """
    made = _make_engine(url, name)
    kind = made.dialect.name
    first = _dialects.get(kind)
    if first is None or first.server_version_info is None:
        _dialects[kind] = made.dialect
        _compiled_statements[kind] = sa.util.LRUCache(_MAX_STATEMENTS)
    else:
        made.dialect = first
    made._compiled_cache = _compiled_statements[kind]
    return made


def _sqlite_without_waits(connection: Any, record: object) -> None:
    _prepare_sqlite(connection, record)
    connection.execute("PRAGMA synchronous=OFF")


_made: dict[str, list[tuple[str, Any]]] = {}
_copying = threading.Lock()


def _copied_revision(connection: sa.Connection) -> str | None:
    """The revision of a database; an empty file of SQLite becomes a copy of the first that this process migrated."""
    path = connection.engine.url.database
    if connection.dialect.name == "sqlite" and "sqlite" in _made and path and path != ":memory:":
        # What is wrong with a file is found below, as in production.
        with contextlib.suppress(sqlite3.Error), _copying, contextlib.closing(sqlite3.connect(path)) as file:
            if file.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                file.execute("PRAGMA synchronous=OFF")
                _migrated().backup(file)
    return _present_revision(connection)


@functools.cache
def _migrated() -> sqlite3.Connection:
    """A migrated database in memory."""
    made = sqlite3.connect(":memory:", check_same_thread=False)
    for statement, values in _made["sqlite"]:
        made.execute(statement, values)
    made.commit()
    return made


def _upgraded(connection: sa.Connection) -> None:
    """Migrate an empty database by the statements of the first migration in this process; others as in production."""
    kind = connection.dialect.name
    if kind == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrations._LOCK})
    if sa.inspect(connection).get_table_names():
        _upgrade(connection)
    elif kind in _made:
        for statement, values in _made[kind]:
            connection.exec_driver_sql(statement, values)
    else:
        _made[kind] = _statements_of(connection, _upgrade)


def _statements_of(connection: sa.Connection, change: Callable[[sa.Connection], None]) -> list[tuple[str, Any]]:
    """Make a change of an empty database; returns its statements and their values, without those that only read."""
    made: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            made.append((statement, values))

    sa.event.listen(connection, "before_cursor_execute", note)
    try:
        change(connection)
    finally:
        sa.event.remove(connection, "before_cursor_execute", note)
    return made
