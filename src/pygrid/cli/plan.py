"""``pygrid plan``: build, inspect and test plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from pygrid.cli.common import JsonOption
from pygrid.cli.help import App
from pygrid.cli.output import say, say_facts, say_json, say_lines, say_table, say_text
from pygrid.cli.plan_build import build

if TYPE_CHECKING:
    from pygrid.cli.tables import PlainTable
    from pygrid.plans import Plan
    from pygrid.plans.inspect import PlanDescription, PlanInput
    from pygrid.plans.variant_summary import VariantsSummary

app = App("Build, inspect and test plans.\n\nExample: pygrid plan inspect digits.plan")

app.command("build")(build)

File = Annotated[Path, typer.Argument(metavar="PATH", help="Plan file.")]


@app.command("inspect")
def inspect(
    file: File,
    as_json: JsonOption = False,
    source: Annotated[bool, typer.Option(help="Whether the author's source is shown.")] = True,
) -> None:
    """Show the inputs, outputs, operators and costs of a plan.

    The plan is checked, but not run.

    Example: pygrid plan inspect digits.plan
    """
    from pygrid.plans import Plan, check_in_child
    from pygrid.plans.inspect import describe, to_json
    from pygrid.plans.variant_summary import summarize_variants

    plan = Plan.load(file)
    description = describe(plan, check_in_child(plan.data))
    _check_variants(plan)
    summary = summarize_variants(plan)
    if as_json:
        say_json(to_json(description) | ({} if summary is None else msgspec.to_builtins(summary)))
    else:
        _show(description, source=source)
        if summary is not None:
            _show_variants(summary)


@app.command("test")
def test(file: File) -> None:
    """Run the self-test of a plan: one step on generated inputs with a known loss.

    Example: pygrid plan test digits.plan
    """
    from pygrid.plans import Plan, check_in_child, run_selftest

    plan = Plan.load(file)
    check_in_child(plan.data)
    result = run_selftest(plan)
    if result is None:
        say(f"{file}: the plan is valid; it contains no test")
    else:
        say(f"{file}: passed; loss {result.loss:.6g}, expected {result.expected:.6g} within {result.tolerance:g}")


def _check_variants(plan: Plan) -> None:
    """Check that the variants compute what the plan does. Raises InvalidPlan."""
    if plan.variants is None:
        return
    from pygrid.plans.dialects.check import check_in_child

    for variant in plan.variants.variants:
        check_in_child(plan.data, variant.to_bytes())


def _show_variants(summary: VariantsSummary) -> None:
    from pygrid.cli.tables import PlainTable
    from pygrid.plans.text import human_bytes

    if summary.variants:
        say()
        say("Variants for clients of 2020")
        rows = [
            (one.dialect, one.batch_size, one.num_actions, human_bytes(one.size_bytes), one.meaning)
            for one in summary.variants
        ]
        say_table(PlainTable(("dialect", "batch size", "actions", "size", "what it is"), rows))
    listed = next((one for one in summary.variants if one.commands), None)
    if listed is not None:
        say()
        say(f"Commands of {listed.dialect}, batches of {listed.batch_size}")
        say_table(PlainTable(("command", "times"), list(listed.commands.items())))
    for dialect, reason in summary.unavailable.items():
        say()
        say_text(f"Not available as {dialect}: {reason}")


def _show(description: PlanDescription, *, source: bool) -> None:
    from pygrid.plans.text import human_bytes

    facts = [
        ("plan", description.name),
        ("description", description.description),
        ("author", description.author),
        ("summary", description.summary),
        ("plan id", description.plan_id),
        ("file", human_bytes(description.size_bytes)),
    ]
    say_facts((name, value) for name, value in facts if value)
    for title, table in _tables(description):
        say()
        say(title)
        say_table(table)
    say()
    say_text(_independence(description))
    if source and description.source.strip():
        say()
        say_text("Source, as its author wrote it (for reading; it is not run, and nothing checks that it is true):")
        say_lines(description.source.strip("\n"), indent="  ", hanging="  ")


def _tables(description: PlanDescription) -> Iterator[tuple[str, PlainTable]]:
    from pygrid.cli.tables import PlainTable
    from pygrid.plans.text import human_bytes, human_count

    def rows(inputs: Iterable[PlanInput]) -> PlainTable:
        return PlainTable(("name", "what", "meaning"), [(one.name, one.what, one.meaning) for one in inputs])

    per_example = description.bytes_in_per_example
    if description.inputs:
        yield f"Reads, {human_bytes(per_example)} per example", rows(description.inputs)
    if description.hyper:
        yield "Hyperparameters", rows(description.hyper)
    share = f" (as much as {human_count(description.bytes_out // per_example)} examples)" if per_example else ""
    yield f"Leaves, {human_bytes(description.bytes_out)} per run{share}", rows(description.outputs)
    heads = ("graph", "nodes", "operations per example", "per call", f"memory, batch {description.max_batch_size}")
    costs = [
        (
            name,
            cost.num_nodes,
            human_count(cost.flops_per_example),
            human_count(cost.flops_fixed),
            human_bytes(cost.peak_bytes),
        )
        for name, cost in description.costs.items()
    ]
    yield "Costs", PlainTable(heads, costs)
    operators = [(name, count, summary) for name, (count, summary) in description.operators.items()]
    yield "Operators", PlainTable(("operator", "times", "what it is"), operators)


def _independence(description: PlanDescription) -> str:
    if description.per_example_independent:
        return "Examples do not influence each other (proven from the graph): fit for private jobs."
    if not description.independence_reason:
        return ""
    return f"Not fit for private jobs: {description.independence_reason}."
