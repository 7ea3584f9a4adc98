"""Datasets: the list, and what a caller may know of one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from litestar import Response, get
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid.core.access import Permission, Principal
from pygrid.errors import NotFound, PygridError
from pygrid.features.datasets.previews import PreviewsService
from pygrid.features.datasets.profiles import ColumnProfile
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs.policies import PoliciesService
from pygrid.features.jobs.service import JobsService
from pygrid.features.jobs.spending import BudgetLevel, SpendingService
from pygrid.messages.datasets import DatasetInfo, DatasetSummary, Preview
from pygrid.messages.jobs import BudgetInfo, PolicyInfo
from pygrid.messages.preparation_text import write_preparation
from pygrid.settings import AppSettings, DomainSettings
from pygrid.storage.jobs import JobFilter
from pygrid.ui.access import signed_in
from pygrid.ui.budget_forms import Preset, explain_budget, list_presets, usual_delta
from pygrid.ui.console import console_of
from pygrid.ui.forms import PathId
from pygrid.ui.pages.job_parts import Bar, JobLine, line_of
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, find_cursor, make_paging
from pygrid.ui.snippets import literal
from pygrid.ui.tables import answer_rows, find_format
from pygrid.ui.words import VISIBILITIES
from pygrid.units import decimal
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

_FIGURES = ("budget", "epsilon_spent", "epsilon_cap", "num_waiting", "updated_at")
COLUMNS = ("id", "name", "owner", "visibility", "version", "num_records", "num_columns", "size_bytes", *_FIGURES)
"""What the list has as a file."""
NUM_RECORDS = 10
_SHOWN_COLUMNS = 8
TABS = {
    "about": "About",
    "columns": "Columns",
    "mock": "Mock",
    "data": "Your data",
    "versions": "Versions",
    "budget": "Policy and budget",
    "requests": "Requests",
}
_OWNER_TABS = frozenset({"data"})


class DatasetLine(DatasetSummary):
    owner: str
    """E-mail; empty: the caller may not see it."""
    level: BudgetLevel | None
    num_waiting: int | None
    """Requests of others that wait for a decision; None: the caller may not see them."""

    @property
    def budget(self) -> str:
        """What the two figures are of: the whole dataset, or the caller's share; empty: no budget is open."""
        return label_of(self.level) if self.level else ""

    @property
    def epsilon_spent(self) -> float | None:
        return self.level.spent if self.level else None

    @property
    def epsilon_cap(self) -> float | None:
        return self.level.cap if self.level else None


class DatasetsView(msgspec.Struct, frozen=True):
    datasets: list[DatasetLine]
    text: str
    paging: Paging
    may_upload: bool
    command: str


class ColumnView(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: str
    unit: str
    meaning: str
    bounds: str
    missing: str
    source: str
    """How the Domain computes it from another column; or that it comes from the file."""
    is_subject: bool


class RecordTable(msgspec.Struct, frozen=True):
    """The first records of a table."""

    caption: str
    names: list[str]
    rows: list[list[str]]
    num_hidden: int
    """Columns that are not shown."""


class PolicyView(msgspec.Struct, frozen=True):
    """The policy of a dataset, and the form that changes it."""

    policy: PolicyInfo | None
    bars: list[Bar]
    users: list[tuple[str, float]]
    meaning: str
    presets: list[Preset]
    delta: float
    num_records: int
    unit: str
    may_change: bool
    fields: Mapping[str, str]


class DatasetView(msgspec.Struct, frozen=True):
    id: int
    tab: str
    tabs: list[tuple[str, str]]
    info: DatasetInfo
    visibility: str
    columns: list[ColumnView]
    table: RecordTable | None
    profiles: list[ColumnProfile]
    budget: PolicyView | None
    jobs: list[JobLine]
    python: str
    fields: Mapping[str, str] = msgspec.field(default_factory=dict)
    visibilities: tuple[tuple[str, str], ...] = tuple(VISIBILITIES.items())


def show_records(caption: str, preview: Preview) -> RecordTable:
    """Return the first records with the first columns, as texts."""
    names = list(preview.columns)[:_SHOWN_COLUMNS]
    num_rows = max((len(values) for values in preview.columns.values()), default=0)
    rows = [[show_cell(preview.columns[name][row]) for name in names] for row in range(num_rows)]
    return RecordTable(caption, names, rows, len(preview.columns) - len(names))


def show_cell(value: object) -> str:
    """Return a value as a short text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return "missing" if math.isnan(value) else decimal(value, 5)
    return str(value)[:60]


def budget_bars(budget: BudgetInfo) -> list[Bar]:
    """Return the budget of a dataset, if the caller may see it, and the caller's share."""
    bars = [Bar("Your share", budget.yours, None, budget.your_cap)]
    if budget.spent is not None:
        bars.insert(0, Bar("The whole dataset", budget.spent, None, budget.policy.epsilon))
    return bars


async def find_budget(state: State, principal: Principal, dataset_id: int) -> BudgetInfo | None:
    try:
        return await service(state, PoliciesService).budget(principal, dataset_id)
    except NotFound:
        return None


async def list_lines(
    state: State, principal: Principal, before: str = "", text: str = "", limit: int = PAGE_ROWS
) -> tuple[list[DatasetLine], int | None]:
    """Return datasets that the caller may see, newest first, and the key of the last one if there are more."""
    datasets, spending = service(state, DatasetsService), service(state, SpendingService)
    read = await datasets.list_datasets(principal, text=text, before=find_cursor(before), limit=limit + 1)
    shown = read[:limit]
    standings = await spending.standings(principal, [one.id for one in shown])
    lines = [
        DatasetLine(**msgspec.structs.asdict(one), owner=found.owner, level=found.level, num_waiting=found.num_waiting)
        for one in shown
        if (found := standings.get(one.id)) is not None
    ]
    return lines, shown[-1].id if len(read) > limit else None


@get("/datasets", guards=[signed_in()])
async def datasets_page(
    request: AppRequest, state: State, text: FromQuery[str] = "", before: FromQuery[str] = ""
) -> Response[bytes]:
    """Show the datasets that the caller may see, newest first."""
    wanted = find_format(request)
    lines, last = await list_lines(state, request.user, before, text[:200])
    if wanted:
        return answer_rows(wanted, "datasets", lines, COLUMNS)
    view = DatasetsView(
        lines,
        text[:200],
        make_paging(request, last, has_files=bool(lines)),
        request.user.may(Permission.UPLOAD_DATA),
        "pygrid dataset add patients.csv --name patients --visibility listed",
    )
    return await console_of(request).page(request, "datasets.html", "Datasets", view)


def label_of(level: BudgetLevel) -> str:
    """Return what a budget is of: the whole dataset, or the caller's share."""
    return "The whole dataset" if level.is_whole else "Your share"


@get("/datasets/{dataset_id:int}", guards=[signed_in()])
async def dataset_page(
    request: AppRequest, state: State, dataset_id: PathId, tab: FromQuery[str] = "about"
) -> Response[bytes]:
    """Show a part of a dataset."""
    return await show_dataset(request, state, dataset_id, tab)


async def show_dataset(
    request: AppRequest,
    state: State,
    dataset_id: int,
    tab: str,
    error: PygridError | None = None,
    fields: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """Show a part of a dataset, with the error of a form and what was typed."""
    principal = request.user
    info = await service(state, DatasetsService).get(principal, dataset_id)
    tabs = [(key, words) for key, words in TABS.items() if info.mine or key not in _OWNER_TABS]
    if tab not in dict(tabs):
        tab = "about"
    view = DatasetView(
        id=dataset_id,
        tab=tab,
        tabs=tabs,
        info=info,
        visibility=VISIBILITIES[info.visibility],
        columns=_columns(info) if tab == "columns" else [],
        table=await _table(state, principal, info, tab),
        profiles=await service(state, PreviewsService).profile(principal, dataset_id) if tab == "data" else [],
        budget=await _policy(state, principal, info, fields or {}) if tab in ("about", "budget") else None,
        jobs=await _jobs(state, principal, dataset_id) if tab == "requests" else [],
        python=f"dataset = domain.datasets[{literal(info.name)}]\ndataset.schema\ndataset.mock()",
        fields=fields or {},
    )
    return await console_of(request).page(request, "dataset.html", info.name, view, error=error)


def _columns(info: DatasetInfo) -> list[ColumnView]:
    return [
        ColumnView(
            column.name,
            column.dtype,
            " x ".join(map(str, column.shape)) or "one value",
            column.unit,
            column.meaning or column.description,
            _bounds(column.min, column.max)
            or (", ".join(column.categories[:12]) if column.categories is not None and column.declared else ""),
            "yes" if column.has_missing else "no",
            "the file" if column.prepared is None else write_preparation(column.prepared),
            column.name == info.schema.subject,
        )
        for column in info.schema.columns
    ]


def _bounds(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{'' if low is None else decimal(low)} .. {'' if high is None else decimal(high)}"


async def _table(state: State, principal: Principal, info: DatasetInfo, tab: str) -> RecordTable | None:
    if tab == "mock":
        mock = await service(state, PreviewsService).mock(principal, info.id, NUM_RECORDS)
        return None if mock is None else show_records("The first records of the mock dataset", mock)
    if tab == "data":
        records = await service(state, DatasetsService).preview(principal, info.id, None, NUM_RECORDS)
        return show_records("The first records", records)
    return None


async def _policy(state: State, principal: Principal, info: DatasetInfo, fields: Mapping[str, str]) -> PolicyView:
    budget = await find_budget(state, principal, info.id)
    settings = service(state, AppSettings)
    presets = settings.named_budgets if isinstance(settings, DomainSettings) else {}
    unit = "record" if info.schema.subject is None else "subject"
    num_units = info.num_records if info.schema.num_subjects is None else info.schema.num_subjects
    return PolicyView(
        policy=None if budget is None else budget.policy,
        bars=[] if budget is None else budget_bars(budget),
        users=sorted((budget.users or {}).items(), key=lambda one: -one[1]) if budget is not None else [],
        meaning="" if budget is None else explain_budget(budget.policy),
        presets=list_presets(presets),
        delta=min(usual_delta(num_units), usual_delta(info.num_records)),
        num_records=info.num_records,
        unit=str(budget.policy.unit or unit) if budget is not None else unit,
        may_change=info.mine,
        fields=fields,
    )


async def _jobs(state: State, principal: Principal, dataset_id: int) -> list[JobLine]:
    found = await service(state, JobsService).list_jobs(principal, JobFilter(dataset_id, limit=PAGE_ROWS))
    return [line_of(job) for job in found]
