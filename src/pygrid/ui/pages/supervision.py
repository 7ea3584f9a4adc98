"""Supervision of the app: the audit log, the settings, and its health."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import platform
import shutil
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid import __version__
from pygrid.core.access import Permission
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.audit.service import AuditCheck, AuditFilter, AuditLine, AuditService
from pygrid.settings import PANELS, AppSettings
from pygrid.ui.access import signed_in
from pygrid.ui.audit_words import ACTIONS, find_object, say_entry
from pygrid.ui.charts import Chart
from pygrid.ui.console import console_of
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, make_paging
from pygrid.ui.sampling import HOURS, Sampler
from pygrid.ui.tables import answer_rows, find_format
from pygrid.web.health import Readiness
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

SEE_AUDIT = (Permission.TRIAGE_REQUESTS, Permission.EDIT_SETTINGS)
"""One of them is needed to open the audit log."""
_FILTERS = tuple(field.name for field in dataclasses.fields(AuditFilter))
_AUDIT = signed_in(*SEE_AUDIT)
_SETTINGS = signed_in(Permission.EDIT_SETTINGS)


class AuditEntryRow(msgspec.Struct, frozen=True):
    number: int
    at: dt.datetime
    actor: str
    words: str
    about: str
    """What the entry is about, by its number: names can change."""
    path: str
    action: str


class AuditView(msgspec.Struct, frozen=True):
    rows: list[AuditEntryRow]
    wanted: AuditFilter
    actions: list[str]
    paging: Paging
    check: AuditCheck | None


class SettingRow(msgspec.Struct, frozen=True):
    name: str
    value: str
    source: str
    flag: str
    meaning: str


class SettingsView(msgspec.Struct, frozen=True):
    panels: list[tuple[str, list[SettingRow]]]
    env_file: str


class HealthView(msgspec.Struct, frozen=True):
    is_ready: bool
    trouble: str
    facts: list[tuple[str, str]]
    free_bytes: int
    total_bytes: int
    tasks: list[str]
    hours: str
    charts: list[Chart]


@get("/audit", guards=[_AUDIT])
async def audit_page(request: AppRequest, state: State, before: FromQuery[int | None] = None) -> Response[bytes]:
    """Show the audit log, newest entries first."""
    fields = {name: request.query_params.get(name, "").strip()[:254] for name in _FILTERS}
    return await _audit(request, state, wanted=AuditFilter(**fields), before=before)


@post("/audit/verify", guards=[_AUDIT])
async def verify_audit(request: AppRequest, state: State) -> Response[bytes]:
    """Verify the whole log."""
    try:
        check = await service(state, AuditService).verify(request.user)
    except PygridError as error:
        return await _audit(request, state, error)
    return await _audit(request, state, check=check)


async def _audit(
    request: AppRequest,
    state: State,
    error: PygridError | None = None,
    *,
    wanted: AuditFilter = AuditFilter(),  # noqa: B008
    before: int | None = None,
    check: AuditCheck | None = None,
) -> Response[bytes]:
    format_, found = find_format(request), []
    try:
        found = await service(state, AuditService).list_entries(
            request.user, before=before, limit=PAGE_ROWS + 1, wanted=wanted
        )
    except InvalidInput as problem:
        error = problem
    rows = entry_rows(found[:PAGE_ROWS])
    if format_ and error is None:
        return answer_rows(format_, "audit", rows, ("number", "at", "actor", "words", "action", "about"))
    view = AuditView(
        rows,
        wanted,
        sorted(ACTIONS),
        make_paging(
            request, rows[-1].number if len(found) > PAGE_ROWS else None, has_files=bool(rows), path="/admin/audit"
        ),
        check,
    )
    return await console_of(request).page(request, "audit.html", "Audit log", view, error=error)


def entry_rows(lines: Sequence[AuditLine]) -> list[AuditEntryRow]:
    return [
        AuditEntryRow(
            one.entry.number,
            one.entry.at,
            one.actor,
            say_entry(one.actor, one.entry.action, one.entry.data, one.names),
            *find_object(one.entry.data),
            one.entry.action,
        )
        for one in lines
    ]


@get("/settings", guards=[_SETTINGS])
async def settings_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show each setting, where its value comes from, and what it means."""
    settings = service(state, AppSettings)
    by_panel: dict[str, list[SettingRow]] = {panel: [] for panel in PANELS}
    lines = []
    for field in dataclasses.fields(settings):
        row = _setting(settings, field)
        by_panel[field.metadata["panel"]].append(row)
        if field.repr and row.source != "default":
            lines.append(f"{row.name}={row.value}")
    view = SettingsView([(panel, rows) for panel, rows in by_panel.items() if rows], "\n".join(lines))
    return await console_of(request).page(request, "settings.html", "Settings", view)


def _setting(settings: AppSettings, field: dataclasses.Field[Any]) -> SettingRow:
    """Return a setting; of a secret, only whether it is set."""
    value, meta = getattr(settings, field.name), field.metadata
    source = "flag or file"
    if value == field.default or (field.default is None and not os.environ.get(meta["env"])):
        source = "default"
    elif os.environ.get(meta["env"]) or (meta["also"] and os.environ.get(meta["also"])):
        source = "variable"
    shown = ("set" if value else "not set") if not field.repr else _shown(value)
    if "://" in shown and "@" in shown:
        shown = f"{shown.partition('://')[0]}://...@{shown.rpartition('@')[2]}"  # without the password
    return SettingRow(meta["env"], shown, source, meta["flag"] or "", meta["help"])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value not in (None, "") else "-"


@get("/health", guards=[_SETTINGS])
async def health_page(request: AppRequest, state: State, hours: FromQuery[str] = "1") -> Response[bytes]:
    """Show whether the app is ready, what fails, and its figures of the last hour or day."""
    trouble, shown = "", hours if hours in HOURS else "1"
    try:
        await service(state, Readiness).check()
    except PygridError as error:
        trouble = error.detail
    settings = service(state, AppSettings)
    disk = shutil.disk_usage(settings.data_dir)
    failing = list(state.tasks.failing)
    view = HealthView(
        not trouble and not failing,
        trouble,
        [
            ("pygrid", __version__),
            ("Python", platform.python_version()),
            ("System", f"{platform.system()} {platform.machine()}"),
            ("Database", settings.database_url.partition(":")[0]),
            ("Data folder", str(settings.data_dir)),
        ],
        disk.free,
        disk.total,
        failing,
        shown,
        service(state, Sampler).charts(shown),
    )
    return await console_of(request).page(request, "health.html", "Health", view)
