"""Ask a question of a dataset: a form of statistics with its price, or a plan and a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Literal, get_args

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid import codes
from pygrid.core.datasets import TIMES
from pygrid.errors import InvalidInput, PygridError
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.jobs.checks import MAX_MODEL_BYTES, Submission
from pygrid.features.jobs.forms import MAX_FORM_BYTES
from pygrid.features.jobs.quotes import Quote, QuotesService
from pygrid.features.jobs.service import JobDraft, JobsService
from pygrid.messages.datasets import Column, DatasetInfo
from pygrid.messages.jobs import BudgetInfo, JobRequest, PrivacyRequest, StatisticRequest
from pygrid.plans.archive import MAX_PLAN_BYTES
from pygrid.tensors.flat import check_model
from pygrid.tensors.stream import StreamCheck
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of, see_other
from pygrid.ui.forms import MAX_FORM_BYTES as MAX_FIELDS_BYTES
from pygrid.ui.forms import PathId, read_fields
from pygrid.ui.pages.datasets import find_budget
from pygrid.ui.render import show_number
from pygrid.units import counted
from pygrid.web.forms import PartTarget, read_form, unknown_part
from pygrid.web.requests import AppRequest, stream_body
from pygrid.web.services import service

StatisticKind = Literal["count", "mean", "sum", "variance", "histogram", "quantile"]
KINDS: tuple[StatisticKind, ...] = get_args(StatisticKind)
MAX_QUESTIONS = 10
Tab = Literal["statistics", "model"]
ModelKind = Literal["train", "evaluate", "predict"]
_MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
_TEXTS = ("kind", "reason", "epsilon", "epochs", "batch_size", "binding")
"""Fields of the form with files."""


class FilledFields(dict[str, str]):
    """The fields of a form; one that was not sent is empty."""

    def __missing__(self, key: str) -> str:
        return ""


class PriceView(msgspec.Struct, frozen=True):
    """The price of the form as it stands; or why it has none."""

    problem: str
    words: list[str]
    is_refused: bool


class AskView(msgspec.Struct, frozen=True):
    tab: Tab
    dataset: int
    dataset_name: str
    columns: list[str]
    arrays: list[str]
    """Columns of arrays, with their shapes."""
    has_budget: bool
    kinds: tuple[StatisticKind, ...]
    num_questions: int
    max_questions: int
    fields: Mapping[str, str]
    price: PriceView
    python: str


_FIELD_WORDS = {"lower": "from", "upper": "to", "keys": "groups", "epochs": "passes over the data"}
"""Names that fields have on the page, where they are others than in a request."""


@get("/ask/{dataset_id:int}", guards=[signed_in()])
async def ask_page(request: AppRequest, state: State, dataset_id: PathId, tab: FromQuery[str] = "") -> Response[bytes]:
    """Show the form, filled by the address, with its price."""
    fields = {name: text[:5000] for name, text in request.query_params.items() if name not in ("tab", "part")}
    return await _page(request, state, dataset_id, "model" if tab == "model" else "statistics", fields)


@post("/ask/{dataset_id:int}", guards=[signed_in()], request_max_body_size=MAX_FIELDS_BYTES)
async def ask(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Submit statistics."""
    fields = await read_fields(request)
    try:
        info = await service(state, DatasetsService).get(request.user, dataset_id)
        budget = await find_budget(state, request.user, dataset_id)
        config = msgspec.json.encode(read_statistics_form(fields, info, budget))
        jobs = service(state, JobsService)
        async with jobs.receive(request.user) as draft:
            job = await jobs.submit(request.user, draft, Submission(config))
    except PygridError as error:
        return await _page(request, state, dataset_id, "statistics", fields, error)
    return see_other(f"/admin/jobs/{job.id}")


@post("/ask/{dataset_id:int}/model", guards=[signed_in()], request_max_body_size=None)
async def ask_model(request: AppRequest, state: State, dataset_id: PathId) -> Response[bytes]:
    """Submit a job with files: train or evaluate by a plan, or predict by an ONNX model."""
    jobs, fields = service(state, JobsService), dict[str, str]()
    try:
        budget = await find_budget(state, request.user, dataset_id)
        async with jobs.receive(request.user) as draft:
            body = stream_body(request, MAX_FORM_BYTES)
            files = await _read_files(request.headers.get("content-type", ""), body, draft, fields)
            config = msgspec.json.encode(read_model_form(fields, dataset_id, budget))
            job = await jobs.submit(request.user, draft, replace(files, config=config))
    except PygridError as error:
        return await _page(request, state, dataset_id, "model", fields, error)
    return see_other(f"/admin/jobs/{job.id}")


async def _read_files(
    content_type: str, body: AsyncIterator[bytes], draft: JobDraft, fields: dict[str, str]
) -> Submission:
    """Write the model of a form to ``draft``, and its texts, which come before the files, to ``fields``."""
    check, is_onnx = StreamCheck(MAX_MODEL_BYTES, check_model), False

    def take_arrays(data: bytearray) -> None:
        check.add(data)
        draft.model.write(data)

    def begin(name: str, before: Mapping[str, bytes]) -> PartTarget:
        nonlocal is_onnx
        fields.update({key: data.decode(errors="replace") for key, data in before.items() if key in _TEXTS})
        if name == "model":
            is_onnx = fields.get("kind") == "predict"
            return PartTarget(MAX_MODEL_BYTES, draft.model.write if is_onnx else take_arrays)
        if name not in (*_TEXTS, "plan"):
            raise unknown_part(name, ", ".join((*_TEXTS, "plan", "model")))
        return PartTarget(MAX_PLAN_BYTES if name == "plan" else MAX_FIELDS_BYTES)

    found = await read_form(content_type, body, begin, parts="the fields of the page", max_parts=20)
    fields.update({key: data.decode(errors="replace") for key, data in found.items() if key in _TEXTS})
    arrays = check.finish().layout if "model" in found and not is_onnx else None
    return Submission(b"", found.get("plan") or None, "model" in found, arrays)


def read_statistics_form(fields: Mapping[str, str], info: DatasetInfo, budget: BudgetInfo | None) -> JobRequest:
    """Return the request of a form. What is empty comes from the schema: bounds and categories that the owner declared.

    Raises:
        InvalidInput: ``invalid_form``, with ``field``.
    """
    columns = {column.name: column for column in info.schema.columns}
    asked = []
    for number in range(_num_questions(fields)):
        kind = fields.get(f"kind{number}", "count")
        if kind not in KINDS:
            raise InvalidInput(f"a question is one of {', '.join(KINDS)}", code=codes.INVALID_FORM, field="kind")
        asked.append(_read_question(kind, fields, number, columns))
    return JobRequest(
        info.id, "statistics", fields.get("reason", ""), statistics=tuple(asked), privacy=_read_privacy(fields, budget)
    )


def _read_question(
    kind: StatisticKind, fields: Mapping[str, str], number: int, columns: Mapping[str, Column]
) -> StatisticRequest:
    def given(name: str) -> str:
        return fields.get(f"{name}{number}", "").strip()

    column, by = columns.get(given("column")), columns.get(given("by"))
    for name in ("column", "by"):
        if given(name) and given(name) not in columns:
            detail = f"the dataset has no column {given(name)[:80]!r}"
            raise InvalidInput(detail, code=codes.INVALID_FORM, field=f"{name}{number}")
    needs_bounds = kind in ("mean", "sum", "variance")
    keys = [part.strip() for part in given("keys").split(",") if part.strip()]
    if by is not None and not keys and by.categories:
        keys = list(by.categories)
    if by is not None and not keys:
        detail = f"groups: the owner declared no values of {by.name[:80]}; write those that you want, as in a, b"
        raise InvalidInput(detail, code=codes.INVALID_FORM, field=f"keys{number}")
    is_whole = by is not None and by.dtype in ("int32", "int64", "uint8", "bool")
    return StatisticRequest(
        kind,
        given("column"),
        lower=_bound(given("lower"), column, None if column is None else column.min, f"lower{number}")
        if needs_bounds
        else 0.0,
        upper=_bound(given("upper"), column, None if column is None else column.max, f"upper{number}")
        if needs_bounds
        else 0.0,
        edges=tuple(_bound(part, column, None, f"edges{number}") for part in given("edges").split(",") if part.strip())
        if kind in ("histogram", "quantile")
        else (),
        quantile=_number(given("quantile") or "0.5", f"quantile{number}") if kind == "quantile" else 0.5,
        by=given("by"),
        keys=tuple(int(_number(key, f"keys{number}")) if is_whole else key for key in keys),
    )


def read_model_form(fields: Mapping[str, str], dataset_id: int, budget: BudgetInfo | None) -> JobRequest:
    """Return the request of a form with files. Raises InvalidInput: ``invalid_form``, with ``field``."""
    kind = fields.get("kind", "train")
    if kind not in _MODEL_KINDS:
        raise InvalidInput(f"kind is one of {', '.join(_MODEL_KINDS)}", code=codes.INVALID_FORM, field="kind")
    binding = {}
    for part in filter(str.strip, fields.get("binding", "").split(",")):
        port, separator, column = part.partition("=")
        if not separator:
            detail = "write each port with its column: x=features, y=label"
            raise InvalidInput(detail, code=codes.INVALID_FORM, field="binding")
        binding[port.strip()] = column.strip()
    return JobRequest(
        dataset_id,
        kind,
        fields.get("reason", ""),
        binding=binding,
        epochs=int(_number(fields.get("epochs") or "1", "epochs")),
        batch_size=int(_number(fields.get("batch_size") or "32", "batch_size")),
        privacy=None if kind == "predict" else _read_privacy(fields, budget),
    )


def _read_privacy(fields: Mapping[str, str], budget: BudgetInfo | None) -> PrivacyRequest | None:
    text = fields.get("epsilon", "").strip()
    if not text:
        return None
    epsilon = _number(text, "epsilon")
    if budget is None:
        return PrivacyRequest(epsilon, 1e-6)
    return PrivacyRequest(epsilon, budget.policy.delta, unit=budget.policy.unit or "record")


def _bound(text: str, column: Column | None, declared: float | None, field: str) -> float | str:
    if not text:
        if declared is None:
            word = _FIELD_WORDS[field.rstrip("0123456789")]
            detail = f"{word}: the owner declared no bound of this column, so write one"
            raise InvalidInput(detail, code=codes.INVALID_FORM, field=field)
        return declared
    return text.strip() if column is not None and column.dtype in TIMES else _number(text, field)


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        word = _FIELD_WORDS.get(field.rstrip("0123456789"), field)
        raise InvalidInput(f"{word} is {text[:80]!r}, not a number", code=codes.INVALID_FORM, field=field) from None


def _num_questions(fields: Mapping[str, str]) -> int:
    text = fields.get("questions", "1")
    number = int(text) if text.isdecimal() and len(text) < 4 else 1
    return min(MAX_QUESTIONS, max(1, number + (fields.get("more") == "1")))


async def _page(
    request: AppRequest,
    state: State,
    dataset_id: int,
    tab: Tab,
    fields: Mapping[str, str],
    error: PygridError | None = None,
) -> Response[bytes]:
    info = await service(state, DatasetsService).get(request.user, dataset_id)
    budget = await find_budget(state, request.user, dataset_id)
    price = PriceView("", [], is_refused=False)
    if fields and error is None:
        price = await _price(request, state, tab, fields, info, budget)
    view = AskView(
        tab=tab,
        dataset=info.id,
        dataset_name=info.name,
        columns=[column.name for column in info.schema.columns if not column.shape],
        arrays=[f"{one.name} ({' x '.join(map(str, one.shape))})" for one in info.schema.columns if one.shape],
        has_budget=budget is not None,
        kinds=KINDS,
        num_questions=_num_questions(fields),
        max_questions=MAX_QUESTIONS,
        fields=FilledFields(fields),
        price=price,
        python=_snippet(tab, fields, info, budget),
    )
    return await console_of(request).page(request, "ask.html", f"Ask {info.name}", view, error=error)


async def _price(
    request: AppRequest, state: State, tab: Tab, fields: Mapping[str, str], info: DatasetInfo, budget: BudgetInfo | None
) -> PriceView:
    """Return the price of the form; a form that is not complete has a reason instead."""
    priced = {**fields, "reason": "price"}
    try:
        if tab == "statistics":
            wanted = read_statistics_form(priced, info, budget)
        else:
            wanted = read_model_form(priced, info.id, budget)
        quote = await service(state, QuotesService).quote(request.user, wanted)
    except PygridError as problem:
        return PriceView(problem.detail, [], is_refused=False)
    return _price_view(wanted, quote)


def _price_view(wanted: JobRequest, quote: Quote) -> PriceView:
    cost = quote.cost
    if cost is None:
        words = ["Without noise: it costs no budget. A person decides before it runs, and before its release."]
        return PriceView("", words, is_refused=False)
    share = ""
    if cost.your_price is not None and cost.your_cap is not None:
        share = f"It takes {show_number(cost.your_price)} of your {show_number(cost.your_cap)}"
        share += f", of which {show_number(cost.yours_before)} are spent." if cost.yours_before else "."
    words = [share or f"It costs epsilon {show_number(cost.epsilon)}."]
    for asked, margin in zip(wanted.statistics, quote.margins, strict=False):
        what = f"{asked.kind} of {asked.column}" if asked.column else asked.kind
        if margin is not None:
            words.append(f"The {what} will be within about \u00b1{show_number(margin)} (95%, from the noise).")
    if wanted.kind == "train":
        noise = show_number(cost.noise_multiplier)
        words.append(
            f"It trains in {counted(cost.rounds, 'round')}, each with noise of {noise} times the clipping bound."
        )
    if cost.fits is False:
        words.append("Your share has too little left for it.")
    return PriceView("", words, is_refused=cost.fits is False)


def _snippet(tab: Tab, fields: Mapping[str, str], info: DatasetInfo, budget: BudgetInfo | None) -> str:
    reason = fields.get("reason") or "..."
    privacy = ""
    if epsilon := fields.get("epsilon", "").strip():
        try:
            privacy = f", epsilon={_number(epsilon, 'epsilon')!r}, delta={budget.policy.delta if budget else 1e-6:g}"
        except InvalidInput:
            privacy = ", epsilon=..., delta=..."
    if tab == "model":
        return f"job = domain.submit(plan, dataset={info.name!r}, model=params{privacy}, reason={reason!r})\njob.wait()"
    try:
        wanted = read_statistics_form(fields, info, budget).statistics
    except InvalidInput:
        wanted = (StatisticRequest("count"),)
    calls = ", ".join(map(_call, wanted))
    names = ", ".join(sorted({one.kind for one in wanted}))
    return (
        f"from pygrid.client.statistics import {names}\n\n"
        f"job = domain.statistics({info.name!r}, [{calls}]{privacy}, reason={reason!r})\n"
        "print(job.wait().answers())"
    )


def _call(asked: StatisticRequest) -> str:
    given = [repr(asked.column)] if asked.column else []
    if asked.kind in ("mean", "sum", "variance"):
        given += [f"lower={asked.lower!r}", f"upper={asked.upper!r}"]
    if asked.kind == "quantile":
        given += [f"{asked.quantile!r}", f"candidates={list(asked.edges)!r}"]
    if asked.kind == "histogram":
        given.append(f"edges={list(asked.edges)!r}")
    if asked.by:
        given += [f"by={asked.by!r}", f"keys={list(asked.keys)!r}"]
    return f"{asked.kind}({', '.join(given)})"
