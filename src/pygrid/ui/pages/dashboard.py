"""The start page of a Domain: what waits for the caller, running trainings, budgets."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.datastructures import State

from pygrid.core.access import Permission, Principal
from pygrid.features.audit.service import AuditService
from pygrid.ui.access import signed_in
from pygrid.ui.audit_words import BOOKKEEPING
from pygrid.ui.console import MAX_SHOWN, Need, console_of
from pygrid.ui.pages.datasets import list_lines as list_dataset_lines
from pygrid.ui.pages.paging import PAGE_ROWS
from pygrid.ui.pages.processes import ProcessLine, list_lines
from pygrid.ui.pages.requests import list_requests
from pygrid.ui.pages.supervision import AuditEntryRow, entry_rows
from pygrid.ui.render import show_number
from pygrid.ui.request_words import ask_in_words
from pygrid.web.requests import AppRequest
from pygrid.web.services import service


class BudgetBar(msgspec.Struct, frozen=True):
    path: str
    name: str
    spent: float
    cap: float
    is_own: bool


class FirstStep(msgspec.Struct, frozen=True):
    """Something to begin with."""

    title: str
    words: str
    path: str
    button: str


class DashboardView(msgspec.Struct, frozen=True):
    needs: list[Need]
    processes: list[ProcessLine]
    budgets: list[BudgetBar]
    steps: tuple[FirstStep, ...]
    """What a new Domain lacks."""
    unbudgeted: tuple[Need, ...]
    """Own datasets without a budget."""
    log: list[AuditEntryRow]
    """The newest entries of the audit log, for callers who may see it."""


@get("/", guards=[signed_in()])
async def domain_dashboard(request: AppRequest, state: State) -> Response[bytes]:
    """Show the start page of a Domain."""
    principal = request.user
    running = await list_lines(state, principal, MAX_SHOWN)
    bars, unbudgeted = await _budgets(state, principal)
    steps = _first_steps(principal, has_data=bool(bars or unbudgeted), has_models=bool(running))
    log = await _log(state, principal)
    needs = [*_failing(state, principal), *await _requests(state, principal), *_nearly_spent(bars)]
    view = DashboardView(needs, running, bars, steps, unbudgeted, log)
    return await console_of(request).page(request, "dashboard.html", "Dashboard", view)


def _failing(state: State, principal: Principal) -> list[Need]:
    tasks = ", ".join(state.tasks.failing) if principal.may(Permission.EDIT_SETTINGS) else ""
    return [Need("/admin/health", f"A background task fails: {tasks}.")] if tasks else []


def _nearly_spent(bars: list[BudgetBar]) -> list[Need]:
    """Own budgets of which more than 80% are spent."""
    return [
        Need(
            bar.path, f"The budget of {bar.name} has {show_number(bar.cap - bar.spent)} of {show_number(bar.cap)} left."
        )
        for bar in bars
        if bar.is_own and bar.spent > 0.8 * bar.cap
    ]


async def _requests(state: State, principal: Principal) -> list[Need]:
    waiting = await list_requests(state, principal)
    return [Need(f"/admin/jobs/{job.id}", ask_in_words(job)) for job in waiting[:MAX_SHOWN]]


def _first_steps(principal: Principal, *, has_data: bool, has_models: bool) -> tuple[FirstStep, ...]:
    steps = []
    if not has_data and principal.may(Permission.UPLOAD_DATA):
        steps.append(FirstStep("Load data", "A file, or the sample.", "/admin/datasets/new", "Choose a file"))
    if not has_models and principal.may(Permission.HOST_MODELS):
        steps.append(FirstStep("Host a model", "Devices train it together.", "/admin/processes/new", "Choose a plan"))
    if principal.may(Permission.CREATE_USERS) and not (has_data and has_models):
        steps.append(FirstStep("Invite somebody", "By a link, with a role.", "/admin/people", "Make a link"))
    if not principal.may(Permission.UPLOAD_DATA):
        steps.append(FirstStep("Ask a question", "Of data that others hold.", "/admin/datasets", "Choose a dataset"))
    return tuple(steps)


async def _log(state: State, principal: Principal) -> list[AuditEntryRow]:
    if not principal.may(Permission.TRIAGE_REQUESTS):
        return []
    lines = await service(state, AuditService).list_entries(principal, limit=PAGE_ROWS)
    return entry_rows([one for one in lines if one.entry.action not in BOOKKEEPING][:MAX_SHOWN])


async def _budgets(state: State, principal: Principal) -> tuple[list[BudgetBar], tuple[Need, ...]]:
    lines, _ = await list_dataset_lines(state, principal, limit=MAX_SHOWN)
    bars, unbudgeted = [], []
    for one in lines:
        if one.level is not None:
            name = one.name if one.level.is_whole else f"{one.name}, your share"
            bars.append(BudgetBar(f"/admin/budgets/{one.id}", name, one.level.spent, one.level.cap, one.mine))
        elif one.mine:
            unbudgeted.append(Need(f"/admin/datasets/{one.id}?tab=budget", one.name))
    return bars, tuple(unbudgeted)
