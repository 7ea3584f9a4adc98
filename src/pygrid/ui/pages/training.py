"""The page of a process: its training live, its cycles, checkpoints, plans and configuration."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable
from typing import Any, Literal, get_args

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid.core.access import Permission
from pygrid.errors import PygridError
from pygrid.features.cycles.progress import CycleProgress, ProgressService
from pygrid.features.processes.comparison import CheckpointComparison
from pygrid.features.processes.evaluations import EvaluationsService
from pygrid.features.processes.plan_pictures import ProcessPictures
from pygrid.features.processes.service import ProcessesService
from pygrid.messages.processes import CheckpointInfo, CycleInfo, EvaluationInfo, ProcessInfo
from pygrid.plans.picture import Picture
from pygrid.tensors.comparison import ArrayChange
from pygrid.ui.access import own_origin, signed_in
from pygrid.ui.charts import Chart, metric_charts, norm_chart, schedule_charts
from pygrid.ui.console import console_of, see_other
from pygrid.ui.downloads import BYTES, download_headers
from pygrid.ui.forms import PathId
from pygrid.ui.pages.paging import find_cursor
from pygrid.ui.pages.processes import row_of
from pygrid.ui.snippets import literal
from pygrid.ui.svg import PlanDrawing, draw_plan
from pygrid.ui.training import DEVICE_COLUMNS, LiveCycle, early_stop_in_words, live_cycle
from pygrid.ui.words import CYCLE_STATES
from pygrid.web.blobs import ProcessBlobs
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

MAX_CYCLES = 1000
"""Cycles that a chart shows, the newest ones."""
MAX_ROWS = 100
Tab = Literal["live", "checkpoints", "plans", "configuration"]
TABS: tuple[Tab, ...] = get_args(Tab)


class CycleRow(msgspec.Struct, frozen=True):
    """A cycle in the table, with its metrics in the order of the columns."""

    sequence: int
    words: str
    num_reports: int
    num_late: int
    num_clipped: int
    values: list[float | None]
    held_out: list[float | None]
    completed_at: dt.datetime | None


class ProcessView(msgspec.Struct, frozen=True):
    """A process on its page. What the tab does not show is empty."""

    tab: Tab
    tabs: tuple[Tab, ...]
    id: int
    name: str
    version: str
    words: str
    tone: str
    num_cycles: int | None
    num_checkpoints: int
    num_parameters: int
    min_diffs: int | None
    may_manage: bool
    state: str
    url: str
    live: LiveCycle | None
    device_columns: tuple[str, ...]
    is_managed: bool
    is_waiting: bool
    early_stop: str
    charts: list[Chart]
    metrics: list[str]
    rows: list[CycleRow]
    num_more: int
    checkpoints: list[CheckpointInfo]
    plans: list[tuple[str, str, str, int]]
    drawings: list[tuple[str, PlanDrawing]]
    configuration: list[tuple[str, str]]
    python: str


class CompareView(msgspec.Struct, frozen=True):
    """Two checkpoints of a process, array by array."""

    problem: dict[str, Any] | None
    id: int
    num_checkpoints: int
    first: int
    second: int
    changes: list[ArrayChange]
    metrics_of_first: dict[str, float]
    metrics_of_second: dict[str, float]
    python: str


@get("/processes/{process_id:int}", guards=[signed_in()])
async def process_page(
    request: AppRequest, state: State, process_id: PathId, tab: FromQuery[str] = "live"
) -> Response[bytes]:
    """Show a process."""
    return await show_process(request, state, process_id, "live" if tab not in TABS else tab)


@post("/processes/{process_id:int}/finish", guards=[signed_in(Permission.HOST_MODELS)])
async def finish(request: AppRequest, state: State, process_id: PathId) -> Response[bytes]:
    """Finish a training."""
    return await _act(request, state, process_id, service(state, ProcessesService).finish(request.user, process_id))


@post("/processes/{process_id:int}/pause", guards=[signed_in(Permission.HOST_MODELS)])
async def pause(request: AppRequest, state: State, process_id: PathId) -> Response[bytes]:
    """Pause a training."""
    return await _act(request, state, process_id, service(state, ProcessesService).pause(request.user, process_id))


@post("/processes/{process_id:int}/resume", guards=[signed_in(Permission.HOST_MODELS)])
async def resume(request: AppRequest, state: State, process_id: PathId) -> Response[bytes]:
    """Resume a training."""
    return await _act(request, state, process_id, service(state, ProcessesService).resume(request.user, process_id))


@post("/processes/{process_id:int}/delete", guards=[signed_in(Permission.HOST_MODELS)])
async def delete(request: AppRequest, state: State, process_id: PathId) -> Response[bytes]:
    """Delete a finished process."""
    act = service(state, ProcessesService).delete(request.user, process_id)
    return await _act(request, state, process_id, act, "/admin/processes")


async def _act(
    request: AppRequest, state: State, process_id: int, act: Awaitable[Any], path: str = ""
) -> Response[bytes]:
    """Await what a button does, and lead to ``path``, or back to the page of the process."""
    try:
        await act
    except PygridError as error:
        return await show_process(request, state, process_id, "live", error)
    return see_other(path or f"/admin/processes/{process_id}")


@get("/processes/{process_id:int}/checkpoints/{number:int}", guards=[signed_in()])
async def download_checkpoint(request: AppRequest, state: State, process_id: PathId, number: PathId) -> Response[Any]:
    """Download a checkpoint: safetensors bytes."""
    process = await service(state, ProcessesService).get(request.user, process_id)
    found = await service(state, ProcessesService).find_checkpoint(
        request.user, process.name, process.version, str(number)
    )
    headers = download_headers(f"process-{process_id}-checkpoint-{number}.safetensors")
    return await service(state, ProcessBlobs).respond(request, found.model_hash, headers, BYTES)


@get("/processes/{process_id:int}/compare", guards=[signed_in()])
async def compare_page(
    request: AppRequest, state: State, process_id: PathId, a: FromQuery[str] = "", b: FromQuery[str] = ""
) -> Response[bytes]:
    """Show how the arrays of the model change from one checkpoint to another."""
    process = await service(state, ProcessesService).get(request.user, process_id)
    second = find_cursor(b) or process.num_checkpoints
    first = find_cursor(a) or max(1, second - 1)
    evaluations = await service(state, EvaluationsService).list(request.user, process_id, 0, MAX_CYCLES)
    metrics = {one.checkpoint: one.metrics for one in evaluations}
    try:
        _, _, changes = await service(state, CheckpointComparison).compare(request.user, process_id, first, second)
        problem = None
    except PygridError as error:
        changes, problem = [], error
    view = CompareView(
        None if problem is None else problem.to_problem(),
        process.id,
        process.num_checkpoints,
        first,
        second,
        changes,
        metrics.get(first, {}),
        metrics.get(second, {}),
        f"{_python_of(process)}\nbefore, after = process.download({first}), process.download({second})",
    )
    title, status = f"{process.name} {process.version}: checkpoints", 200 if problem is None else problem.status
    return await console_of(request).page(request, "compare.html", title, view, status=status)


async def show_process(
    request: AppRequest, state: State, process_id: int, tab: Tab, error: PygridError | None = None
) -> Response[bytes]:
    """Return the page of a process, with what an act of the caller was refused for."""
    processes, principal = service(state, ProcessesService), request.user
    process = await processes.get(principal, process_id)
    progress = await service(state, ProgressService).get(principal, process_id)
    cycles: list[CycleInfo] = []
    evaluations: list[EvaluationInfo] = []
    checkpoints: list[CheckpointInfo] = []
    if tab == "live":
        first = max(0, progress.cycle.sequence - MAX_CYCLES)
        cycles = await processes.list_cycles(principal, process_id, first, MAX_CYCLES)
        evaluations = await service(state, EvaluationsService).list(principal, process_id, 0, MAX_CYCLES)
    elif tab == "checkpoints":
        checkpoints = await processes.list_checkpoints(principal, process_id)
    pictures = await service(state, ProcessPictures).draw(principal, process_id) if tab == "plans" else []
    view = _view(request, tab, process, progress, _Tables(cycles, evaluations, checkpoints, pictures))
    return await console_of(request).page(
        request, "process.html", f"{process.name} {process.version}", view, error=error
    )


class _Tables(msgspec.Struct, frozen=True):
    cycles: list[CycleInfo]
    evaluations: list[EvaluationInfo]
    checkpoints: list[CheckpointInfo]
    pictures: list[tuple[str, Picture]]


def _view(request: AppRequest, tab: Tab, process: ProcessInfo, progress: CycleProgress, tables: _Tables) -> ProcessView:
    config, row, cycles = process.server_config, row_of(process), tables.cycles
    metrics = sorted({name for cycle in cycles for name in cycle.metrics})
    is_live = tab == "live"
    return ProcessView(
        tab=tab,
        tabs=TABS,
        id=process.id,
        name=process.name,
        version=process.version,
        words=row.words,
        tone=row.tone,
        num_cycles=config.get("num_cycles") or None,
        num_checkpoints=process.num_checkpoints,
        num_parameters=process.num_parameters,
        min_diffs=config.get("min_diffs"),
        may_manage=progress.is_managed and request.user.may(Permission.HOST_MODELS),
        state=process.state,
        url=own_origin(request),
        live=live_cycle(progress, config) if is_live and not _is_over(process) else None,
        device_columns=DEVICE_COLUMNS,
        is_managed=progress.is_managed,
        is_waiting=process.state == "active" and progress.cycle.sequence == 1 and progress.cycle.num_assigned == 0,
        early_stop=early_stop_in_words((config.get("evaluation") or {}).get("stop"), tables.evaluations),
        charts=_charts(cycles, tables.evaluations, progress) if is_live else [],
        metrics=metrics,
        rows=_rows(cycles[-MAX_ROWS:], tables.evaluations, metrics),
        num_more=max(0, len(cycles) - MAX_ROWS),
        checkpoints=sorted(tables.checkpoints, key=lambda one: -one.number),
        plans=[(plan.name, plan.kind, plan.plan_hash, plan.size_bytes) for plan in process.plans],
        drawings=[(name, draw_plan(picture)) for name, picture in tables.pictures],
        configuration=[
            *((name, json.dumps(value)) for name, value in sorted(config.items()) if value is not None),
            *((f"client: {name}", json.dumps(value)) for name, value in sorted(process.client_config.items())),
        ],
        python=f"{_python_of(process)}\nprocess.watch()\nprocess.cycles()",
    )


def _is_over(process: ProcessInfo) -> bool:
    return process.state == "finished" and process.cycle is not None and process.cycle.state == "completed"


def _python_of(process: ProcessInfo) -> str:
    return f"process = domain.process({literal(process.name)}, {literal(process.version)})"


def _charts(cycles: list[CycleInfo], evaluations: list[EvaluationInfo], progress: CycleProgress) -> list[Chart]:
    norms = norm_chart(progress.norms, progress.radii)
    return [*metric_charts(cycles, evaluations), *([] if norms is None else [norms]), *schedule_charts(cycles)]


def _rows(cycles: list[CycleInfo], evaluations: list[EvaluationInfo], metrics: list[str]) -> list[CycleRow]:
    held_out = {one.cycle: one.metrics for one in evaluations}
    return [
        CycleRow(
            cycle.sequence,
            CYCLE_STATES[cycle.state],
            cycle.num_reports,
            cycle.num_late,
            cycle.num_clipped,
            [cycle.metrics.get(name) for name in metrics],
            [held_out.get(cycle.sequence, {}).get(name) for name in metrics] if held_out else [],
            cycle.completed_at,
        )
        for cycle in reversed(cycles)
    ]
