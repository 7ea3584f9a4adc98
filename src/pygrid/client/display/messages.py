"""Messages as tables in a notebook: what calls of the SDK return that is not an object of the SDK."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from pygrid.client.datasets import ColumnTable, dataset_html
from pygrid.client.display.tables import html_facts
from pygrid.client.process import process_facts
from pygrid.messages.datasets import DatasetInfo, DatasetSummary, Schema, UploadTrial
from pygrid.messages.jobs import BudgetInfo, JobCost, PolicyInfo
from pygrid.messages.processes import ProcessInfo
from pygrid.units import counted, decimal, size

Facts = Iterator[tuple[str, object]]


def register() -> None:
    """Show messages as tables in the notebook that runs this process, if there is one."""
    module: Any = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is not None:
        formatter = shell.display_formatter.formatters["text/html"]
        for kind, draw in DRAWN.items():
            formatter.for_type(kind, draw)


def _schema(schema: Schema) -> str:
    subjects = "" if schema.num_subjects is None else f" of {counted(schema.num_subjects, 'subject')}"
    return f"{counted(schema.num_records, 'record')}{subjects}{ColumnTable(schema.columns).html()}"


def _trial(trial: UploadTrial) -> str:
    notes = "".join(f"<div>{html.escape(note)}</div>" for note in trial.notes)
    return f"would be stored, {size(trial.size_bytes)}: {_schema(trial.schema)}{notes}"


def _summary(info: DatasetSummary) -> Facts:
    yield "dataset", f"{info.name}, version {info.version}"
    yield "description", info.description
    yield "records", f"{info.num_records:,}"
    yield "columns", info.num_columns
    yield "size", size(info.size_bytes)
    yield "visibility", info.visibility


def _budget(budget: BudgetInfo) -> Facts:
    yield "you", _spent(budget.yours, budget.your_cap, budget.your_left)
    if budget.spent is not None and budget.left is not None:
        yield "all users", _spent(budget.spent, budget.policy.epsilon, budget.left)
    for email, spent in sorted((budget.users or {}).items()):
        yield email, f"epsilon {decimal(spent, 3)}"
    yield "delta", decimal(budget.policy.delta)
    yield "protects", f"each {budget.policy.unit}"


def _spent(spent: float, cap: float, left: float) -> str:
    return f"epsilon {decimal(spent, 3)} of {decimal(cap)} spent, {decimal(left, 3)} left"


def _cost(cost: JobCost) -> Facts:
    yield "guarantee", f"epsilon {decimal(cost.epsilon, 3)}, delta {decimal(cost.delta)}"
    if cost.your_price is not None and cost.your_cap is not None:
        yield "takes from your part", f"{decimal(cost.your_price, 3)} of {decimal(cost.your_cap)}"
    if cost.price is not None and cost.cap is not None:
        yield "takes from the budget", f"{decimal(cost.price, 3)} of {decimal(cost.cap)}"
    yield "noise", f"{counted(cost.rounds, 'round')} with noise multiplier {decimal(cost.noise_multiplier, 3)}"
    if cost.fits is not None:
        yield "fits the budget", "yes" if cost.fits else "no"


def _policy(policy: PolicyInfo) -> Facts:
    for name, value in msgspec.structs.asdict(policy).items():
        if value is not None and name != "fresh_budget":
            yield name, {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _table(facts: Callable[[Any], Facts]) -> Callable[[Any], str]:
    return lambda message: html_facts(facts(message))


DRAWN: Mapping[type, Callable[[Any], str]] = {
    Schema: _schema,
    DatasetInfo: dataset_html,
    UploadTrial: _trial,
    DatasetSummary: _table(_summary),
    BudgetInfo: _table(_budget),
    JobCost: _table(_cost),
    PolicyInfo: _table(_policy),
    ProcessInfo: lambda info: html_facts(process_facts(info)),
}
"""A function that draws each kind of message as HTML, with all texts escaped."""
