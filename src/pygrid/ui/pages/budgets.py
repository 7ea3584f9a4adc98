"""Budgets: how much of each is spent, over time, by person and by job; and what a request would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid import codes
from pygrid.errors import InvalidInput, NotFound, PygridError
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs.policies import PoliciesService
from pygrid.features.jobs.quotes import Quote, QuotesService
from pygrid.features.jobs.spending import BudgetHistory, SpendingService
from pygrid.messages.datasets import DatasetInfo
from pygrid.messages.jobs import JobRequest, PolicyInfo, PrivacyRequest, StatisticRequest
from pygrid.privacy.words import explain_epsilon
from pygrid.ui.access import signed_in
from pygrid.ui.budget_forms import read_amount
from pygrid.ui.charts import Chart, spending_chart
from pygrid.ui.confirmation import confirm_password
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES, PathId, read_fields
from pygrid.ui.pages.datasets import DatasetLine, label_of, list_lines
from pygrid.ui.pages.paging import PAGE_ROWS, Paging, find_cursor, make_paging
from pygrid.ui.pages.people import SEE_PEOPLE
from pygrid.ui.render import show_number
from pygrid.ui.snippets import literal
from pygrid.web.requests import AppRequest
from pygrid.web.services import service

PERIODS = {"week": 7, "month": 30, "all": None}
"""Days that the chart shows."""
CHARGE_STATES = {
    "reserved": "set aside for a job that starts",
    "running": "the job runs",
    "released": "released",
    "failed": "the job failed after its start",
    "refunded": "given back",
}
SimulatedKind = Literal["statistics", "train"]
_KINDS: tuple[SimulatedKind, ...] = get_args(SimulatedKind)


class BudgetsView(msgspec.Struct, frozen=True):
    budgets: list[DatasetLine]
    unbudgeted: list[tuple[int, str]]
    """Own datasets without a budget."""
    paging: Paging


class SimulationView(msgspec.Struct, frozen=True):
    """What a request would cost; or why there is no answer."""

    problem: str
    words: list[str]


class BudgetView(msgspec.Struct, frozen=True):
    dataset: int
    name: str
    policy: PolicyInfo
    meaning: str
    history: BudgetHistory
    label: str
    chart: Chart | None
    period: str
    periods: list[str]
    charge_states: Mapping[str, str]
    simulation: SimulationView
    fields: Mapping[str, str]
    grant: Mapping[str, str]
    """What was typed to grant a share."""
    may_change: bool
    sees_people: bool
    """Whether the caller may open the pages of people."""
    paging: Paging
    python: str


@get("/budgets", guards=[signed_in()])
async def budgets_page(request: AppRequest, state: State, before: FromQuery[str] = "") -> Response[bytes]:
    """Show the budgets of the datasets that the caller may see."""
    lines, last = await list_lines(state, request.user, before)
    view = BudgetsView(
        [one for one in lines if one.level is not None],
        [(one.id, one.name) for one in lines if one.mine and one.level is None],
        make_paging(request, last),
    )
    return await console_of(request).page(request, "budgets.html", "Budgets", view)


@get("/budgets/{dataset_id:int}", guards=[signed_in()])
async def budget_page(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Show how a budget was spent, and what the request in the address would cost."""
    return await _page(request, state, dataset_id)


@post("/budgets/{dataset_id:int}/grants", guards=[signed_in()], request_max_body_size=MAX_FORM_BYTES)
async def grant(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Set the share of one person."""
    fields = await read_fields(request)
    try:
        await service(state, DatasetsService).check_managed(request.user, dataset_id)
        epsilon = read_amount(fields, "epsilon", "the share")
        email = fields.get("email", "").strip()
        await confirm_password(request, state, fields, f"change the share of {email[:80]}")
        await service(state, SpendingService).grant(request.user, dataset_id, email, epsilon)
    except PygridError as error:
        if error.code in (codes.DATASET_NOT_FOUND, codes.POLICY_NOT_FOUND):
            raise
        return await _page(request, state, dataset_id, error, fields)
    return see_other(f"/admin/budgets/{dataset_id}")


async def _page(
    request: AppRequest,
    state: State,
    dataset_id: int,
    error: PygridError | None = None,
    sent: Mapping[str, str] | None = None,
) -> Response[bytes]:
    principal, query = request.user, request.query_params
    info = await service(state, DatasetsService).get(principal, dataset_id)
    try:
        policy = await service(state, PoliciesService).get(principal, dataset_id)
    except NotFound:
        raise NotFound(
            f"the dataset {info.name} has no open budget: its owner can open one on the page of the dataset",
            code=codes.POLICY_NOT_FOUND,
        ) from None
    period = query.get("period", "all") if query.get("period") in PERIODS else "all"
    history = await service(state, SpendingService).history(
        principal, dataset_id, days=PERIODS[period], before=find_cursor(query.get("before", "")), limit=PAGE_ROWS + 1
    )
    jobs = history.jobs[:PAGE_ROWS]
    fields = {
        name: text[:100]
        for name, text in query.items()
        if name in ("kind", "questions", "epsilon", "epochs", "batch_size")
    }
    view = BudgetView(
        dataset=dataset_id,
        name=info.name,
        policy=policy,
        meaning=explain_epsilon(policy.epsilon, policy.delta, policy.unit or "record"),
        history=BudgetHistory(history.level, history.points, jobs, history.people),
        label=label_of(history.level),
        chart=spending_chart(history.points, history.level.cap),
        period=period,
        periods=list(PERIODS),
        charge_states=CHARGE_STATES,
        simulation=await _simulate(request, state, info, policy, fields),
        fields=fields,
        grant=sent or {},
        may_change=info.mine,
        sees_people=any(map(principal.may, SEE_PEOPLE)),
        paging=make_paging(request, jobs[-1].id if len(history.jobs) > PAGE_ROWS else None),
        python=f"dataset = domain.datasets[{literal(info.name)}]\ndataset.budget()",
    )
    return await console_of(request).page(request, "budget.html", f"Budget of {info.name}", view, error=error)


async def _simulate(
    request: AppRequest, state: State, info: DatasetInfo, policy: PolicyInfo, fields: Mapping[str, str]
) -> SimulationView:
    if not fields.get("epsilon"):
        return SimulationView("", [])
    try:
        wanted = read_simulation(fields, info.id, policy)
        quote = await service(state, QuotesService).quote(request.user, wanted)
    except PygridError as error:
        return SimulationView(error.detail, [])
    return SimulationView("", say_quote(wanted, quote))


def read_simulation(fields: Mapping[str, str], dataset_id: int, policy: PolicyInfo) -> JobRequest:
    """Return a request with the cost of what the form describes.

    Raises:
        InvalidInput: ``invalid_form``, with ``field``.
    """
    kind = fields.get("kind", "statistics")
    if kind not in _KINDS:
        raise InvalidInput("choose statistics or a training", code=codes.INVALID_FORM, field="kind")
    privacy = PrivacyRequest(read_amount(fields, "epsilon", "epsilon"), policy.delta, unit=policy.unit or "record")
    if kind == "train":
        return JobRequest(
            dataset_id,
            kind,
            "price",
            epochs=_count(fields, "epochs", "1"),
            batch_size=_count(fields, "batch_size", "32"),
            privacy=privacy,
        )
    counts = tuple(StatisticRequest("count") for _ in range(min(100, _count(fields, "questions", "1"))))
    return JobRequest(dataset_id, kind, "price", statistics=counts, privacy=privacy)


def say_quote(wanted: JobRequest, quote: Quote) -> list[str]:
    """Return the price of a request in sentences."""
    cost = quote.cost
    assert cost is not None, "the request is private"
    words = []
    if cost.price is not None and cost.spent_before is not None and cost.spent_after is not None:
        words.append(
            f"It takes {show_number(cost.price)} of the budget: spent {show_number(cost.spent_before)} becomes "
            f"{show_number(cost.spent_after)} of {show_number(cost.cap)}. {_more(quote.num_in_budget)} in the budget."
        )
    if quote.usual_share is not None:
        usual = quote.usual_share
        words.append(
            f"A person has a share of {show_number(usual.cap)}, of which it takes {show_number(usual.price)}. "
            f"{_more(usual.num_fitting)} in a share of which nothing is spent."
        )
    elif cost.your_price is not None:
        words.append(
            f"It takes {show_number(cost.your_price)} of a share of {show_number(cost.your_cap)}, of which "
            f"{show_number(cost.yours_before)} are spent. {_more(quote.num_in_share)} in your share."
        )
    rounds = f", in {cost.rounds:,} rounds" if wanted.kind == "train" else ""
    words.append(
        f"The noise is {show_number(cost.noise_multiplier)} times the largest influence of one record{rounds}."
    )
    return words


def _more(count: int | None) -> str:
    return (
        "Any number of such jobs fit" if count is None else f"{count:,} such {'job fits' if count == 1 else 'jobs fit'}"
    )


def _count(fields: Mapping[str, str], name: str, default: str) -> int:
    text = fields.get(name, "").strip() or default
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:12]) < 2**31):
        raise InvalidInput(f"{name} is {text[:40]!r}: write a whole number", code=codes.INVALID_FORM, field=name)
    return int(text)
