"""Checks a job request against a dataset, a plan and a model, and makes the columns and statistics for the Worker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from pygrid import codes
from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.core.column_times import read_time, span_of, write_time
from pygrid.core.datasets import CODED, MISSING_CODE, TIMES, Bound, Column, Dtype, Schema, bounds_of, stored_dtype
from pygrid.core.federated import check_federation
from pygrid.core.job_spec import ColumnRef, JobSpec, Statistic, check_spec
from pygrid.core.metric_bounds import check_metric_bounds, resolve_metric_bounds
from pygrid.core.predictions import check_predict_request, refuse_predict_fields
from pygrid.errors import InvalidConfig, InvalidInput, InvalidPlan
from pygrid.messages.jobs import JobRequest, StatisticRequest
from pygrid.plans.gate import GateReport
from pygrid.plans.hyper import resolve_hyper
from pygrid.plans.manifest import DataPort, Manifest
from pygrid.units import decimal

MAX_REASON = 5_000
MAX_EPOCHS = 10_000
MAX_STATISTICS = 100


def check_request(request: JobRequest) -> None:
    """Check a request by itself. Raises InvalidConfig: ``invalid_job``: names the field and the fault."""
    if not request.reason.strip() or len(request.reason) > MAX_REASON:
        raise _invalid(
            f"reason: describe the purpose of the job in 1 to {MAX_REASON:,} characters; a person may decide on it"
        )
    if not 1 <= request.dataset < 2**31 or (request.version is not None and not 1 <= request.version < 2**31):
        raise _invalid("dataset and version are numbers of at least 1")
    if not 1 <= request.epochs <= MAX_EPOCHS:
        raise _invalid(f"epochs is {request.epochs}; use 1 to {MAX_EPOCHS:,}")
    if not 1 <= request.batch_size < 2**31:
        raise _invalid(f"batch_size is {request.batch_size}; use 1 or more")
    if not 0 <= request.seed < 2**63:
        raise _invalid(f"seed is {request.seed}; use 0 to 2^63 - 1")
    if (request.kind == "statistics") != bool(request.statistics) or len(request.statistics) > MAX_STATISTICS:
        raise _invalid(f"statistics: a job of kind statistics, and no other, has 1 to {MAX_STATISTICS} of them")
    if request.kind == "statistics" and (request.binding or request.hyper or request.optimizer):
        raise _invalid("binding, hyper and optimizer are for jobs with a plan; statistics have none")
    if request.kind == "predict":
        check_predict_request(request)
    else:
        refuse_predict_fields(request)
    check_metric_bounds(request)
    _refuse_nul(request)
    check_federation(request)
    _refuse_unused(read_optimizer(request), request.optimizer)


def _refuse_unused(optimizer: ServerOptimizer, written: Mapping[str, Any]) -> None:
    faults = [f"optimizer.{fault.field} {fault.text}" for fault in optimizer.find_faults(written)]
    if faults:
        raise _invalid("; ".join(faults))


def read_optimizer(request: JobRequest, lr: float = 1.0) -> ServerOptimizer:
    """The optimizer of a private training, which applies the noisy mean gradient. Default: SGD with the ``lr`` of the
    plan.

    Raises:
        InvalidConfig: ``invalid_job``.
    """
    if not request.optimizer:
        return ServerOptimizer(learning_rate=lr)
    try:
        optimizer = msgspec.convert({"learning_rate": lr, **request.optimizer}, ServerOptimizer)
    except msgspec.ValidationError as error:
        raise _invalid(f"optimizer: {error}") from error
    numbers = (optimizer.learning_rate, optimizer.momentum, optimizer.beta1, optimizer.beta2, optimizer.tau)
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or optimizer.tau == 0:
        raise _invalid("optimizer: all its numbers are finite and not negative, and tau is above 0")
    if max(optimizer.momentum, optimizer.beta1, optimizer.beta2) >= 1:
        raise _invalid("optimizer: momentum, beta1 and beta2 must be below 1")
    if request.privacy is None or request.kind != "train":
        raise _invalid("optimizer is for private training; a non-private job trains with the optimizer of the plan")
    return optimizer


def graph_of(request: JobRequest) -> str:
    """The graph of the plan that a job runs on the data."""
    if request.kind == "evaluate":
        return "eval"
    return "grads" if request.privacy is not None and request.privacy.unit != "domain" else "train"


def check_plan(request: JobRequest, manifest: Manifest, report: GateReport) -> None:
    """Check that a plan that passed the gate can run the request.

    Raises:
        InvalidPlan: ``plan_kind``: another kind of plan, or a graph is missing; ``plan_mixes_examples``;
            ``plan_time_unbounded``.
        InvalidInput: a hyperparameter or batch size out of the plan's range.
        InvalidConfig: ``metric_bounds_missing``, ``invalid_metric_bounds``: for a private evaluation.
    """
    if report.kind != "training":
        raise InvalidPlan(
            f"plan {report.name!r} is of kind {report.kind!r}; a job needs a training plan", code=codes.PLAN_KIND
        )
    graph = graph_of(request)
    if graph not in report.graphs:
        raise InvalidPlan(
            f"a job of this kind runs the graph {graph!r}, which the plan lacks", code=codes.PLAN_KIND, graph=graph
        )
    if graph == "grads" and not report.per_example_independent:
        raise InvalidPlan(
            f"a private job can't use this plan, because {report.independence_reason}. Replace layers such as "
            "BatchNorm, which compute over a whole batch, for example by GroupNorm",
            code=codes.PLAN_MIXES_EXAMPLES,
        )
    if request.privacy is not None and graph in report.value_dependent_time:
        raise InvalidPlan(
            "a private job can't use this plan, because the time of the remainder of a division of floats depends on "
            "the values of a record. Write the remainder as x - floor(x / y) * y",
            code=codes.PLAN_TIME_UNBOUNDED,
        )
    if graph == "train" and request.batch_size > manifest.max_batch_size:
        raise _invalid(f"batch_size is {request.batch_size}; this plan takes 1 to {manifest.max_batch_size}")
    resolve_hyper(manifest, request.hyper)
    resolve_metric_bounds(request, manifest)


def check_binding(request: JobRequest, ports: Mapping[str, DataPort], schema: Schema) -> None:
    """Check that every data port of a plan, or input of a model, is bound to a column that fits.

    Raises:
        InvalidInput: ``invalid_binding``: names the port; ``missing_values``: the column can have missing values, and
            the port is not optional.
    """
    for name in request.binding:
        if name not in ports:
            raise _unbound(f"there is no data port {name[:100]!r}; there are {', '.join(ports)}", name[:100])
    for name, port in ports.items():
        if name not in request.binding:
            raise _unbound(f"the input {name!r} of the plan has no column: bind one to it, as {name}=COLUMN", name)
        column = _column(schema, request.binding[name])
        if column.dtype == "text" or column.name == schema.subject:
            raise _unbound(
                f"port {name!r}: column {column.name!r} holds texts or subjects, which a plan can't compute with", name
            )
        if column.shape != port.shape:
            raise _unbound(
                f"port {name!r} takes {list(port.shape)} per record; column {column.name!r} has {list(column.shape)}",
                name,
            )
        if port.tokenizer and port.tokenizer != column.tokenizer:
            raise _unbound(
                f"port {name!r} takes tokens of {port.tokenizer!r}; those of column {column.name!r} are of "
                f"{column.tokenizer!r}. The data owner can declare a column of texts with "
                f"tokens={port.tokenizer.partition(':')[0]}:{port.shape[0]}",
                name,
            )
        if column.dtype == "category":
            _check_codes(name, port, column)
        if column.dtype == "datetime" and port.dtype == "float32":
            raise _unbound(
                f"port {name!r} is float32, which rounds the microseconds of column {column.name!r} to minutes; the "
                "data owner can declare it as a date, whose days float32 holds",
                name,
            )
        if not np.can_cast(stored_dtype(column), np.dtype(port.dtype), "same_kind"):
            raise _unbound(
                f"port {name!r} is {port.dtype}, which column {column.name!r} ({column.dtype}) can't become", name
            )
        if column.dtype != "category" and column.may_have_missing and port.optional is not True:
            raise InvalidInput(
                f"column {column.name!r} has missing values, and port {name!r} does not take them; bind another "
                "column, or declare the port in the plan as optional, so that missing values arrive as NaN",
                code=codes.MISSING_VALUES,
                port=name,
                column=column.name,
            )


def _check_codes(name: str, port: DataPort, column: Column) -> None:
    """Check that a port can take the codes of a category. Only declared levels are public, and so are their codes."""
    if not column.declared or column.num_categories is None:
        raise _unbound(
            f"port {name!r}: the levels of column {column.name!r} come from the data, so their codes mean nothing to "
            "others; the data owner can declare them (categories)",
            name,
        )
    if not port.dtype.startswith("int"):
        raise _unbound(
            f"port {name!r} is {port.dtype}, which would take the codes of column {column.name!r} for quantities; "
            f"declare the port as a label of {column.num_categories} classes, or as whole numbers",
            name,
        )
    if port.num_classes is not None and column.num_categories > port.num_classes:
        raise _unbound(
            f"port {name!r} takes {port.num_classes} classes; column {column.name!r} has more levels: "
            f"{column.num_categories}",
            name,
        )
    if column.may_have_missing and port.ignore != MISSING_CODE:
        raise InvalidInput(
            f"column {column.name!r} has missing values, whose code is {MISSING_CODE}, and port {name!r} does not take "
            f"them; declare it as a label with ignore={MISSING_CODE}, or ask the data owner to make them a level",
            code=codes.MISSING_VALUES,
            port=name,
            column=column.name,
        )


def used_columns(request: JobRequest, schema: Schema) -> tuple[str, ...]:
    """The columns that the Worker of a job maps. It can read no other column."""
    names = [*request.binding.values()]
    for statistic in request.statistics:
        names += [statistic.column, statistic.by]
    if request.privacy is not None and request.privacy.unit == "subject" and schema.subject is not None:
        names.append(schema.subject)
    used = tuple(dict.fromkeys(name for name in names if name))
    # A count needs only the length of a column, so any column works.
    return used or (schema.columns[0].name,)


def read_statistics(request: JobRequest, schema: Schema) -> tuple[Statistic, ...]:
    """The statistics for the Worker, with text keys as codes.

    A text that does not occur gets an empty group. The answer does not show that the text does not occur.

    Raises:
        InvalidInput: ``unknown_column``; ``invalid_statistic``: the statistic does not apply to the column;
            ``invalid_job``: bounds or edges are missing or not valid.
    """
    statistics = tuple(_read_statistic(number, asked, schema) for number, asked in enumerate(request.statistics))
    if statistics:
        columns = {
            column.name: ColumnRef("", column.dtype, column.shape, schema.num_records) for column in schema.columns
        }
        check_spec(JobSpec(id="", kind="statistics", columns=columns, statistics=statistics))
    return statistics


def _read_statistic(number: int, asked: StatisticRequest, schema: Schema) -> Statistic:
    where = f"statistic {number} ({asked.kind})"
    dtype: Dtype = "float64"
    has_missing = False
    if asked.column:
        column = _column(schema, asked.column)
        dtype, has_missing = column.dtype, column.may_have_missing
        if (dtype in CODED and asked.kind != "count") or column.name == schema.subject:
            raise _bad(
                f"{where}: column {column.name!r} holds texts, categories or subjects; count them by declared keys: "
                "by, keys"
            )
    if (asked.keys or asked.per) and not asked.by:
        raise _bad(f"{where}: keys are values of a column: name it in by")
    keys: Sequence[int] = ()
    spans: Sequence[tuple[float, float]] = ()
    if asked.by:
        column = _column(schema, asked.by)
        if column.name == schema.subject:
            raise _bad(f"{where}: answers never show single subjects, so {column.name!r} can't be used in by")
        if column.dtype in TIMES:
            spans = _spans(where, column, asked)
        elif asked.per:
            raise _bad(f"{where}: per is for dates, and column {column.name!r} is {column.dtype}; leave it out")
        else:
            keys = _codes(where, column, asked.keys)
    lower, upper, *edges = (_number(where, value, dtype) for value in (asked.lower, asked.upper, *asked.edges))
    return Statistic(
        kind=asked.kind,
        column=asked.column,
        has_missing=has_missing,
        lower=lower,
        upper=upper,
        edges=tuple(edges),
        quantile=asked.quantile,
        by=asked.by,
        keys=tuple(keys),
        spans=tuple(spans),
    )


def _number(where: str, value: Bound, dtype: Dtype) -> float:
    """A bound or an edge in the unit of the stored values."""
    if not isinstance(value, str):
        return value
    if dtype not in TIMES:
        raise _bad(f"{where}: {value[:50]!r} is not a number; only bounds and edges of dates are texts")
    try:
        return read_time(value, dtype)
    except ValueError:
        raise _bad(f"{where}: {value[:50]!r} is not a date; write it as 2020-12-31") from None


def _spans(where: str, column: Column, asked: StatisticRequest) -> list[tuple[float, float]]:
    """The groups of dates. Keys that are years or months need ``per``; keys of a datetime are always such."""
    if len(set(asked.keys)) != len(asked.keys) or not asked.keys:
        raise _bad(f"{where}: name the keys of the groups, each once")
    if column.dtype == "datetime" and not asked.per:
        raise _bad(f"{where}: column {column.name!r} is a datetime; group it per year or per month")
    try:
        found = [span_of(key, asked.per, column.dtype) for key in asked.keys]
    except ValueError as error:
        hint = "" if asked.per else "; write dates as 2020-12-31, or group per year or per month"
        raise _bad(f"{where}: {str(error)[:100]}{hint}") from None
    low, high = bounds_of(column)
    for key, (begin, end) in zip(asked.keys, found, strict=True):
        if (high is not None and begin > high) or (low is not None and end <= low):
            shown = [write_time(bound, column.dtype) if bound is not None else "" for bound in (low, high)]
            raise _unknown_key(where, key, column, " to ".join(shown))
    return found


def _codes(where: str, column: Column, keys: Sequence[int | str]) -> list[int]:
    wanted = str if column.dtype in CODED else int
    if len(set(keys)) != len(keys) or not keys:
        raise _bad(f"{where}: name the keys of the groups, each once")
    for key in keys:
        if not isinstance(key, wanted) or isinstance(key, bool):
            raise _bad(f"{where}: column {column.name!r} is {column.dtype}, and {key!r} is not a value of this dtype")
        if isinstance(key, int) and not -(2**63) <= key < 2**63:
            raise _bad(f"{where}: {key} is outside of the values of column {column.name!r}")
    _refuse_undeclared(where, column, keys)
    if wanted is int:
        return [int(key) for key in keys]
    codes = {text: code for code, text in enumerate(column.categories or ())}
    # No record has a code below that of a missing value, so each unknown text gets its own empty group.
    return [codes.get(str(key), MISSING_CODE - 1 - position) for position, key in enumerate(keys)]


def _refuse_undeclared(where: str, column: Column, keys: Sequence[int | str]) -> None:
    """Refuse a key that no record can have by the declaration of the owner.

    Keys that are not in the data pass, because their absence is private.
    """
    if column.dtype in CODED:
        if not column.declared:
            return
        known = set(column.categories or ())
        unknown = [key for key in keys if key not in known]
        allowed = ", ".join(map(repr, (column.categories or ())[:20]))
    else:
        low, high = _key_bounds(column)
        unknown = [key for key in keys if not low <= int(key) <= high]
        allowed = f"{decimal(low)} to {decimal(high)}"
    if unknown:
        raise _unknown_key(where, unknown[0], column, allowed)


def _unknown_key(where: str, key: int | str, column: Column, allowed: str) -> InvalidInput:
    return InvalidInput(
        f"{where}: {str(key)[:80]!r} is not among the declared values of column {column.name!r}: {allowed}",
        code=codes.UNKNOWN_KEY,
        column=column.name,
    )


def _key_bounds(column: Column) -> tuple[float, float]:
    """The declared range of an integer column, within that of its type."""
    if column.dtype == "bool":
        return 0, 1
    limits = np.iinfo(column.dtype) if column.dtype in ("uint8", "int32", "int64") else np.iinfo("int64")
    low, high = bounds_of(column)
    return max(limits.min, -math.inf if low is None else low), min(limits.max, math.inf if high is None else high)


def name_groups(answers: list[dict[str, Any]], request: JobRequest) -> list[dict[str, Any]]:
    """The answers of a Worker with the declared keys of the groups."""
    named = []
    for answer, asked in zip(answers, request.statistics, strict=True):
        if asked.by:
            values = [value for _, value in answer["groups"]]
            answer = {**answer, "groups": [[key, value] for key, value in zip(asked.keys, values, strict=True)]}
        named.append(answer)
    return named


def schema_for_mock(schema: Schema, request: JobRequest, manifest: Manifest | None) -> Schema:
    """The schema of the mock dataset for one request.

    A column without declared bounds gets those of its port, so that a valid plan does not fail on generated values. So
    does one whose bounds include a value for what has no label: the values between are not valid.
    """
    if manifest is None:
        return schema
    ports = {request.binding[name]: port for name, port in manifest.data.items()}

    def bounded(column: Column) -> Column:
        port = ports.get(column.name)
        if port is None or port.num_classes is None or column.prepared is not None:
            return column
        if bounds_of(column) != (None, None) and port.ignore is msgspec.UNSET:
            return column
        return msgspec.structs.replace(column, min=0.0, max=float(port.num_classes - 1))

    columns = tuple(bounded(column) for column in schema.columns)
    return msgspec.structs.replace(schema, columns=columns)


def _column(schema: Schema, name: str) -> Column:
    column = schema.find(name)
    if column is None:
        there = ", ".join(column.name for column in schema.columns[:20])
        raise InvalidInput(
            f"the dataset has no column {name[:100]!r}; it has {there}", code=codes.UNKNOWN_COLUMN, column=name[:100]
        )
    return column


def _refuse_nul(request: JobRequest) -> None:
    texts = [request.reason, *request.binding, *request.binding.values(), *request.hyper, *request.select]
    texts += request.metric_bounds
    for statistic in request.statistics:
        texts += [statistic.column, statistic.by, *(key for key in statistic.keys if isinstance(key, str))]
    if any("\0" in text for text in texts):
        raise _invalid("a text has a NUL character; remove it")


def _invalid(detail: str) -> InvalidConfig:
    return InvalidConfig(detail, code=codes.INVALID_JOB)


def _unbound(detail: str, port: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_BINDING, port=port, field="binding")


def _bad(detail: str) -> InvalidInput:
    return InvalidInput(detail, code=codes.INVALID_STATISTIC)


def metrics_of(values: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers among the metrics of a Worker."""
    return {
        str(name): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
