"""``pygrid plan``: build, inspect and test plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrid.cli.common import JsonOption, handle_errors
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json
from pygrid.cli.plan_build import build

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pygrid.plans.inspect import PlanDescription, PlanInput

app = App("Build, inspect and test plans.\n\nExample: pygrid plan inspect digits.plan")

app.command("build")(build)

File = Annotated[Path, typer.Argument(metavar="PATH", help="Plan file.")]


@app.command("inspect")
@handle_errors
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

    plan = Plan.load(file)
    description = describe(plan, check_in_child(plan.data))
    if as_json:
        say_json(to_json(description))
    else:
        from rich.console import Console

        _show(Console(highlight=False), description, source=source)


@app.command("test")
@handle_errors
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


def _show(console: Console, description: PlanDescription, *, source: bool) -> None:
    from rich.text import Text

    from pygrid.plans.text import human_bytes, printable

    # Text, never markup: plans are untrusted.
    console.print(Text(printable(description.name), style="bold"))
    if description.description:
        console.print(Text(printable(description.description)))
    console.print(Text(description.summary))
    facts = [f"plan id {description.plan_id}", f"file {human_bytes(description.size_bytes)}"]
    if description.author:
        facts.append(f"author {printable(description.author)}")
    console.print(Text(", ".join(facts), style="dim"))
    console.print()
    for table in _tables(description):
        console.print(table)
    console.print(Text(_independence(description)))
    if source and description.source.strip():
        console.print()
        console.print(
            Text("Source, as its author wrote it (for reading; it is not run, and nothing checks that it is true):")
        )
        console.print(Text(printable(description.source), style="dim"))


def _tables(description: PlanDescription) -> list[Table]:
    from pygrid.plans.text import human_bytes, human_count

    per_example = human_bytes(description.bytes_in_per_example)
    result = []
    if description.inputs:
        result.append(_columns(f"Reads, {per_example} per example", description.inputs))
    if description.hyper:
        result.append(_columns("Hyperparameters", description.hyper))
    leaves = f"Leaves, {human_bytes(description.bytes_out)} per run"
    if description.bytes_in_per_example:
        leaves += f" (as much as {human_count(description.bytes_out // description.bytes_in_per_example)} examples)"
    result.append(_columns(leaves, description.outputs))
    costs = _table(
        "Costs",
        "graph",
        "nodes",
        "operations per example",
        "and per call",
        f"memory, batch {description.max_batch_size}",
    )
    for name, cost in description.costs.items():
        costs.add_row(
            name,
            str(cost.num_nodes),
            human_count(cost.flops_per_example),
            human_count(cost.flops_fixed),
            human_bytes(cost.peak_bytes),
        )
    operators = _table("Operators", "operator", "times", "what it is")
    for name, (count, summary) in description.operators.items():
        operators.add_row(name, str(count), summary)
    return [*result, costs, operators]


def _columns(title: str, columns: tuple[PlanInput, ...]) -> Table:
    from rich.text import Text

    from pygrid.plans.text import printable

    table = _table(title, "name", "what", "meaning")
    for column in columns:
        table.add_row(Text(printable(column.name)), Text(printable(column.what)), Text(printable(column.meaning)))
    return table


def _table(title: str, *headers: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for header in headers:
        table.add_column(header)
    return table


def _independence(description: PlanDescription) -> str:
    if description.per_example_independent:
        return "Examples do not influence each other (proven from the graph): fit for private jobs."
    if not description.independence_reason:
        return ""
    return f"Not fit for private jobs: {description.independence_reason}."
