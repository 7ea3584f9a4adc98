"""The review summary of a job: the request, its privacy cost, and what leaves the Domain."""

from __future__ import annotations

from pygrid.messages.jobs import FederationRequest, JobCost, JobInfo, JobRequest
from pygrid.plans.text import printable
from pygrid.privacy.words import explain_epsilon
from pygrid.units import counted, decimal, size

_KINDS = {
    "train": "train a model",
    "evaluate": "evaluate a model",
    "statistics": "answer statistics",
    "predict": "have a model answer for each record",
}

_BROUGHT = {"train": "plan", "evaluate": "plan", "statistics": "questions", "predict": "model"}
"""Name of the part of a request that defines the job."""

_FLAG_NAMES = {"red": "warning", "amber": "look at", "info": "known"}

_FACTS = {
    "num_records": "records",
    "num_calls": "calls of the plan",
    "num_zeroed": "contributions that failed",
    "wall_s": "seconds",
    "cpu_s": "seconds of the processor",
    "max_rss_bytes": "bytes of memory",
    "sandbox": "around it",
}


def sheet(info: JobInfo) -> list[tuple[str, str]]:
    """The review summary as names and values, safe to print, without what only the data owner may see."""
    rows = [
        ("job", info.id),
        ("state", f"{info.state}: {info.detail}" if info.detail else info.state),
        ("asked by", info.requested_by_email),
        ("reason", info.reason),
        ("asks to", f"{_KINDS[info.kind]} on {info.dataset_name}, version {info.version}"),
    ]
    if info.plan_id:
        rows.append((_BROUGHT[info.kind], f"{info.plan_name}, SHA-256 {info.plan_id}".removeprefix(", ")))
    if info.plan_summary:
        rows.append((f"the {_BROUGHT[info.kind]}", info.plan_summary))
    if info.request is not None:
        rows += request_rows(info.request)
    if info.federation is not None and info.federation.num_begun:
        part = info.federation
        rows.append(
            ("so far", f"{counted(part.num_begun, 'training')} begun, {counted(part.num_reported, 'diff')} sent")
        )
    rows.append(("privacy", privacy_in_words(info)))
    if info.cost is not None:
        bound = "the clipping bound" if info.kind == "train" else "the bound on one unit"
        rows += _budget_rows(info.cost, bound, "record" if info.privacy is None else info.privacy.unit)
    rows.append(("what leaves", leaves_in_words(info)))
    if info.metrics:
        where = "of the result" if info.state in ("held", "released") else "on the mock"
        rows.append((where, ", ".join(f"{name} {decimal(value, 4)}" for name, value in sorted(info.metrics.items()))))
    if info.facts:
        facts = {name: value for name, value in info.facts.items() if value and name in _FACTS}
        rows.append(("the Worker saw", ", ".join(f"{_plain(value)} {_FACTS[name]}" for name, value in facts.items())))
    if info.decided_by is not None:
        comment = "" if info.state == "revoked" else info.comment  # the comment is that of the approval
        rows.append((decision_in_words(info), info.decided_by + (f": {comment}" if comment else "")))
    rows += [(_FLAG_NAMES[flag.severity], flag.sentence) for flag in info.flags]
    if info.waiting_beside:
        rows.append(("also waiting", f"{counted(info.waiting_beside, 'other request')} on this dataset"))
    rows.append(("request hash", info.request_hash))
    return [(name, printable(value)) for name, value in rows]


def decision_in_words(info: JobInfo) -> str:
    """The last decision of a person on a job: ``denied by``."""
    if info.state == "released" and info.privacy is None:
        return "released by"
    return {"denied": "denied by", "revoked": "revoked by"}.get(info.state, "approved by")


def privacy_in_words(info: JobInfo) -> str:
    """The privacy guarantee that a job requests."""
    terms = info.privacy
    if terms is None:
        if info.request is not None and info.request.federation is not None:
            return "none: exact, and only this approval stands between the data and the coordinator"
        return "none: an exact answer, which a person signs off"
    words = f"epsilon {decimal(terms.epsilon)}, delta {decimal(terms.delta)} for each {terms.unit}"
    # Metrics and answers are bounded one by one, each by its own declared bounds.
    return f"{words}; contributions clipped to {decimal(terms.clip)}" if info.kind == "train" else words


def cost_in_words(info: JobInfo) -> str:
    """What a job takes from the budget, in a few words; empty for a non-private job."""
    if info.cost is None:
        return ""
    if info.cost.your_price is None:
        return decimal(info.cost.epsilon, 3)
    return f"{decimal(info.cost.your_price, 3)}{_of(info.cost.your_cap)}"


def request_rows(request: JobRequest) -> list[tuple[str, str]]:
    """The details of a request as names and values."""
    rows = []
    for one in request.statistics:
        if one.edges:
            edges = ", ".join(edge if isinstance(edge, str) else decimal(edge) for edge in one.edges)
            name = "edges of the bins" if one.kind == "histogram" else "candidates"
            rows.append((f"{name} of {one.column}", edges))
    if request.binding:
        rows.append(("columns", ", ".join(f"{column} as {port}" for port, column in request.binding.items())))
    if request.kind == "train":
        hyper = "".join(f", {name} {decimal(value)}" for name, value in request.hyper.items())
        rows.append(("training", f"{counted(request.epochs, 'epoch')} in batches of {request.batch_size}{hyper}"))
    if request.metric_bounds:
        bounds = (
            f"{name} {decimal(lower)} to {decimal(upper)}" for name, (lower, upper) in request.metric_bounds.items()
        )
        rows.append(("metrics within", ", ".join(bounds)))
    if request.select:
        rows.append(("of its outputs", ", ".join(request.select)))
    if request.max_records is not None:
        rows.append(("only for", f"the first {counted(request.max_records, 'record')}"))
    if request.federation is not None:
        federation = request.federation
        where = f"{federation.process} {federation.version} at {federation.coordinator}"
        rows.append(("takes part in", f"{where}, for at most {counted(federation.cycles, 'cycle')}"))
    if request.optimizer:
        rows.append(("optimizer", ", ".join(f"{name} {value}" for name, value in request.optimizer.items())))
    return rows


def _budget_rows(cost: JobCost, bound: str, unit: str) -> list[tuple[str, str]]:
    noise = f"{counted(cost.rounds, 'round')} with noise of {decimal(cost.noise_multiplier, 3)} times {bound}"
    rows = [("cost", f"epsilon {decimal(cost.epsilon, 3)}: {noise}")]
    if cost.certainty is not None:
        rows.append(("that means", explain_epsilon(cost.epsilon, cost.delta, unit)))
    if cost.spent_before is not None and cost.spent_after is not None:
        rows.append(("budget", _change(cost.price, cost.spent_before, cost.spent_after, cost.cap)))
    if cost.fits is not None:
        rows.append(
            ("room for it", "yes, now" if cost.fits else "NO: the budget would refuse it, also after an approval")
        )
    if cost.yours_before is not None and cost.yours_after is not None:
        rows.append(("asker's share", _change(cost.your_price, cost.yours_before, cost.yours_after, cost.your_cap)))
    return rows


def _change(price: float | None, before: float, after: float, cap: float | None) -> str:
    takes = "" if price is None else f"takes {decimal(price, 3)}: "
    return f"{takes}{decimal(before, 3)} before, {decimal(after, 3)} after{_of(cap)}"


def _of(cap: float | None) -> str:
    return "" if cap is None else f" of {decimal(cap)}"


def leaves_in_words(info: JobInfo) -> str:
    """What leaves the Domain if the job runs and its result is released."""
    exact = info.privacy is None
    if info.request is not None and info.request.federation is not None:
        return _leaves_each_cycle(info.request.federation, exact=exact)
    what = {
        "train": "a trained model",
        "evaluate": "a few metrics",
        "statistics": "the answers",
        "predict": info.leaves or "an answer for each record",
    }[info.kind]
    amount = "" if info.result_bytes is None else f", {size(info.result_bytes)}"
    ratio = info.bytes_out_ratio
    if ratio is not None:
        amount += f" ({decimal(ratio, 2)} times the data)"
    if not exact:
        return f"{what}{amount}; only sums with noise go into it"
    if info.kind == "predict":
        most = " AND IS LARGE ENOUGH TO HOLD THEM" if ratio is not None and ratio >= 0.1 else ""
        return f"{what}{amount}. IT REVEALS SOMETHING ABOUT EACH SINGLE RECORD{most}"
    if ratio is not None and ratio >= 0.1:
        return f"{what}{amount}. IT IS LARGE ENOUGH TO HOLD RECORDS"
    return f"{what}{amount}, without noise"


def _leaves_each_cycle(federation: FederationRequest, *, exact: bool) -> str:
    most = f"after each of at most {counted(federation.cycles, 'cycle')}, what training has changed in the model"
    there = f"to {federation.coordinator}, at once: nobody looks at it before"
    if exact:
        return f"{most}, WITHOUT NOISE, and its metrics, {there}. IT MAY HOLD RECORDS"
    return f"{most}, {there}; only sums with noise go into it"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return decimal(value, 3)
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
