"""Help pages.

Should happen: each command shows what it does, all of its options, and an example that begins with its name.
Should not happen: a line is wider than 80 columns, or a word is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pygrid.cli import app
from pygrid.settings import PANELS

GROUP = typer.main.get_command(app)


def commands() -> Iterator[tuple[str, Any]]:
    context = GROUP.context_class(GROUP, info_name="pygrid")
    yield "pygrid", GROUP
    for name in GROUP.list_commands(context):  # type: ignore[attr-defined]
        _, command, _ = GROUP.resolve_command(context, [name])  # type: ignore[attr-defined]
        yield f"pygrid {name}", command
        for child, subcommand in getattr(command, "commands", {}).items():
            yield f"pygrid {name} {child}", subcommand


COMMANDS = dict(commands())


def help_page(path: str, width: int = 80) -> str:
    done = CliRunner().invoke(app, [*path.split()[1:], "--help"], prog_name="pygrid", env={"COLUMNS": str(width)})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_a_help_page_with_an_example(path: str) -> None:
    page = help_page(path)
    assert max(map(len, page.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in page
    assert page.startswith(f"Usage: {path} [OPTIONS]")
    example = page.partition("\nExample:\n  ")[2]
    assert re.match(rf"{path}\b", example), page


@pytest.mark.parametrize("path", COMMANDS)
def test_every_parameter_is_explained(path: str) -> None:
    page = help_page(path)
    for parameter in COMMANDS[path].params:
        if parameter.hidden:
            continue
        name = parameter.name.upper() if parameter.param_type_name == "argument" else parameter.opts[0]
        assert (parameter.metavar or name) in page
        assert re.fullmatch(r"[A-Za-z].*\.( \[.*\])?", parameter.help, re.DOTALL), name
        takes_value = parameter.param_type_name == "option" and not parameter.is_flag
        assert bool(parameter.metavar) or not takes_value, f"{name} has no metavar"
        for option in [*parameter.opts, *parameter.secondary_opts] if name.startswith("-") else []:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", page), option


def test_a_wide_terminal_does_not_widen_a_help_page() -> None:
    assert help_page("pygrid domain", 200) == help_page("pygrid domain", 80)


@pytest.mark.parametrize("path", ["pygrid domain", "pygrid network"])
def test_options_of_apps_are_sorted_by_subject(path: str) -> None:
    titles = re.findall(r"^(\w+):$", help_page(path), re.MULTILINE)
    assert titles == [*(panel for panel in PANELS if panel in titles), "Options", "Example"]
    assert {"Basics", "Accounts", "Network", "Storage", "Logging"} < set(titles)


def test_a_group_lists_the_first_sentence_of_each_command() -> None:
    page = " ".join(help_page("pygrid job").split())
    assert "result Download the result of a job, once it is released." in page
    assert "Statistics are printed" not in page
    assert "Statistics are printed" in help_page("pygrid job result")


def test_an_unknown_option_is_named_in_plain_text() -> None:
    done = CliRunner().invoke(app, ["job", "list", "--color"], prog_name="pygrid")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0] == "Usage: pygrid job list [OPTIONS]"
    assert "No such option: --color" in done.stderr
