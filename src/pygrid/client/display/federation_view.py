"""A training across Domains on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pygrid.client.display.live import ProgressView
from pygrid.client.display.tables import Table, TableColumn, metric_columns
from pygrid.client.federation.states import DomainState, FederatedCycle
from pygrid.plans.text import one_line


class TrainingDomains(Table["DomainState"]):
    """The Domains of a training."""

    def columns(self) -> Sequence[TableColumn[DomainState]]:
        return (
            TableColumn("domain", lambda item: item.name, weight=4),
            TableColumn("dataset", lambda item: item.dataset, weight=2),
            TableColumn("state", lambda item: item.state, weight=4),
            TableColumn("cycles", lambda item: item.num_reported, weight=3, align="right"),
            TableColumn("now", lambda item: item.detail, min=20),
        )

    def __getitem__(self, which: str | int) -> DomainState:  # type: ignore[override]
        if isinstance(which, str):
            return next(item for item in self if item.name == which)
        return list.__getitem__(self, which)


class CycleTable(Table["FederatedCycle"]):
    """The cycles of a training: for each Domain, the number of examples behind its diff, and the norm of the diff."""

    def columns(self) -> Sequence[TableColumn[FederatedCycle]]:
        names = sorted({one.client for cycle in self for one in cycle.contributions})
        return (
            TableColumn("cycle", lambda cycle: cycle.cycle, weight=4, align="right"),
            TableColumn("state", lambda cycle: cycle.state, weight=4),
            *(TableColumn(name, partial(_contribution, name), weight=2) for name in names),
            *metric_columns(self, weight=3),
            TableColumn("s", lambda cycle: "" if cycle.seconds is None else f"{cycle.seconds:.1f}", align="right"),
        )


def _contribution(client: str, cycle: FederatedCycle) -> str:
    sent = next((one for one in cycle.contributions if one.client == client), None)
    return "-" if sent is None else f"{sent.num_examples:,}, norm {sent.norm:.3g}"


def show_training(
    view: ProgressView, domains: Sequence[DomainState], cycles: Sequence[FederatedCycle], total: int | None = None
) -> None:
    """Show the state of a training; without cycles it has not begun."""
    done = sum(cycle.state == "completed" for cycle in cycles)
    view.show(one_line(describe(domains, cycles), 200), done, total)


def describe(domains: Sequence[DomainState], cycles: Sequence[FederatedCycle]) -> str:
    """The state of a training in one line."""
    if not cycles:
        states = ", ".join(f"{domain.name} {domain.state}" for domain in domains)
        return f"waiting for the Domains to decide: {states}"
    completed = [cycle for cycle in cycles if cycle.state == "completed"]
    metrics = (
        "".join(f", {name} {value:.4g}" for name, value in sorted(completed[-1].metrics.items())) if completed else ""
    )
    last = cycles[-1]
    if last.state == "completed":
        return f"cycle {last.cycle} is completed{metrics}"
    present = ", ".join(one.client for one in last.contributions) or "no Domain"
    return f"cycle {last.cycle}: {present} reported{metrics}"
