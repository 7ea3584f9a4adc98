"""Hosted processes: the list, and runs side by side."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid.core.access import Permission, Principal
from pygrid.features.processes.evaluations import EvaluationsService
from pygrid.features.processes.service import ProcessesService
from pygrid.messages.processes import ProcessInfo
from pygrid.plans.text import printable
from pygrid.storage.process_list import ListedProcess
from pygrid.ui.access import signed_in
from pygrid.ui.charts import Chart, run_charts
from pygrid.ui.console import console_of
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, find_cursor, make_paging
from pygrid.ui.render import show_number
from pygrid.ui.snippets import literal
from pygrid.ui.svg import Sparkline, draw_curve
from pygrid.ui.tables import answer_rows, find_format
from pygrid.ui.words import PROCESS_STATES
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_HOST_SNIPPET = """process = domain.host(
    "digits",
    "1.0",
    model="digits.safetensors",
    plans={"training_plan": "digits.plan"},
    server_config={"num_cycles": 10, "cycle_length": 60, "max_diffs": 10},
)"""
_PROGRESS = ("words", "cycle", "num_cycles", "num_reports", "metric")
COLUMNS = ("id", "name", "version", "owner", *_PROGRESS, "model_bytes", "created_at")
"""What the list has as a file."""
MAX_RUNS = 6
"""Processes that are compared at once."""
MAX_CYCLES = 1000
MAX_POINTS = 60
"""Cycles in a small curve."""


class ProcessLine(msgspec.Struct, frozen=True):
    id: int
    name: str
    version: str
    words: str
    tone: str
    cycle: int | None
    num_cycles: int | None
    num_reports: int
    model_bytes: int
    created_at: dt.datetime
    metric: str = ""
    """A metric of the newest completed cycle."""
    owner: str = ""
    """E-mail of the model owner; empty: the caller may not see it."""
    curve: Sparkline | None = None


class ProcessesView(msgspec.Struct, frozen=True):
    processes: list[ProcessLine]
    states: dict[str, str]
    state: str
    text: str
    paging: Paging
    may_host: bool
    python: str


class RunsView(msgspec.Struct, frozen=True):
    runs: list[ProcessLine]
    charts: list[Chart]
    rows: list[tuple[str, list[str]]]
    """Settings in which the runs differ."""
    python: str


def row_of(process: ProcessInfo) -> ProcessLine:
    return ProcessLine(
        process.id,
        process.name,
        process.version,
        PROCESS_STATES[process.state],
        _tone(process.state),
        process.cycle.sequence if process.cycle else None,
        process.server_config.get("num_cycles") or None,
        process.cycle.num_reports if process.cycle else 0,
        process.model_bytes,
        process.created_at,
    )


def _listed(process: ListedProcess) -> ProcessLine:
    metrics = sorted((process.totals or {}).get("metrics", {}).items())
    return ProcessLine(
        process.id,
        process.name,
        process.version,
        PROCESS_STATES[process.state],
        _tone(process.state),
        process.sequence,
        process.server_config.get("num_cycles") or None,
        process.num_reports,
        process.model_bytes,
        process.created_at,
        ", ".join(f"{name} {show_number(value)}" for name, value in metrics[:2]),
        process.owner,
    )


def _tone(state: str) -> str:
    return {"active": "busy", "paused": "warn"}.get(state, "off")


async def list_lines(state: State, principal: Principal, limit: int) -> list[ProcessLine]:
    """Return the newest processes that are not finished, each with the curve of its first metric."""
    processes = service(state, ProcessesService)
    found = await processes.list_page(principal, before=None, limit=limit, state="active")
    totals = await processes.list_curves(principal, {one.id: one.sequence - MAX_POINTS for one in found})
    return [msgspec.structs.replace(_listed(one), curve=_curve(totals.get(one.id, []))) for one in found]


def _curve(totals: Sequence[Mapping[str, Any]]) -> Sparkline | None:
    metrics = [one.get("metrics", {}) for one in totals]
    name = min((name for one in metrics for name in one), default="")
    values = [one[name] for one in metrics if name in one and math.isfinite(one[name])]
    return draw_curve(printable(name), values) if len(values) > 1 else None


@get("/processes", guards=[signed_in()])
async def processes_page(
    request: AppRequest, state: State, q: FromQuery[str] = "", before: FromQuery[str] = ""
) -> Response[bytes]:
    """Show the hosted processes, newest first."""
    wanted, chosen = find_format(request), request.query_params.get("state", "")
    chosen = chosen if chosen in PROCESS_STATES else ""
    found = await service(state, ProcessesService).list_page(
        request.user, before=find_cursor(before), limit=PAGE_ROWS + 1, state=chosen, text=q[:200]
    )
    rows = [_listed(process) for process in found[:PAGE_ROWS]]
    if wanted:
        return answer_rows(wanted, "processes", rows, COLUMNS)
    paging = make_paging(request, rows[-1].id if len(found) > PAGE_ROWS else None, has_files=bool(rows))
    view = ProcessesView(
        rows, PROCESS_STATES, chosen, q[:200], paging, request.user.may(Permission.HOST_MODELS), _HOST_SNIPPET
    )
    return await console_of(request).page(request, "processes.html", "Processes", view)


@get("/processes/compare", guards=[signed_in()])
async def runs_page(request: AppRequest, state: State) -> Response[bytes]:
    """Show several processes side by side: ``?run=1&run=2``."""
    processes, principal = service(state, ProcessesService), request.user
    wanted = [one for one in request.query_params.getall("run", []) if one.isdecimal() and len(one) < 10]
    infos, curves = [], {}
    for key in dict.fromkeys(map(int, wanted[:MAX_RUNS])):
        info = await processes.get(principal, key)
        newest = info.cycle.sequence if info.cycle else 0
        cycles = await processes.list_cycles(principal, key, max(0, newest - MAX_CYCLES), MAX_CYCLES)
        held_out = await service(state, EvaluationsService).list(principal, key, 0, MAX_CYCLES)
        infos.append(info)
        curves[f"{info.name} {info.version}"] = cycles, held_out
    names = ", ".join(f"domain.process({literal(info.name)}, {literal(info.version)})" for info in infos)
    view = RunsView(
        [row_of(info) for info in infos],
        run_charts(curves),
        _differences(infos),
        f"for process in [{names}]:\n    print(process.cycles())",
    )
    return await console_of(request).page(request, "runs.html", "Compare runs", view)


def _differences(infos: list[ProcessInfo]) -> list[tuple[str, list[str]]]:
    configs = [{**info.server_config, **info.client_config} for info in infos]
    rows = []
    for name in sorted({name for config in configs for name in config} - {"name", "version"}):
        values = [str(config.get(name, "-")) for config in configs]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows
