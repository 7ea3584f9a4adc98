"""What commands that list and show print.

Should happen: the output on terminals of 80 and 120 columns equals the golden files; a pipe gets whole values.
Should not happen: a line that is wider than the terminal.

``python -m support.commands`` in ``tests`` writes the golden files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from pygrid.cli import app
from support.commands import COMMANDS, GOLDEN, TABLES, WIDTHS, run


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_shows_the_golden_output(name: str, width: int, tmp_path: Path) -> None:
    shown = run(COMMANDS[name], tmp_path, width=width)
    assert shown == (GOLDEN / f"{name}-{width}.txt").read_text()
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_tables_of_a_data_folder_are_the_golden_ones(name: str, width: int) -> None:
    shown = TABLES[name].text(width) + "\n"
    assert shown == (GOLDEN / f"{name}-{width}.txt").read_text()
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("plan-inspect", "search")])
def test_a_pipe_gets_the_same_fields_whole(name: str, tmp_path: Path) -> None:
    piped = run(COMMANDS[name], tmp_path)
    if name.endswith("-show"):
        assert "..." not in piped
        return
    rows = [line.split("\t") for line in piped.splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert len(rows) > 1


def test_a_pipe_gets_whole_ids_and_texts(tmp_path: Path) -> None:
    heads, job, _ = (line.split("\t") for line in run("job list", tmp_path).splitlines())
    shown = dict(zip(heads, job, strict=True))
    assert shown["job"] == "4f1c09a2d3e84b5f96a7b8c9d0e1f203"
    assert shown["reason"] == "whether age and blood pressure predict a second visit within thirty days"
    assert shown["budget"] == "0.35 of 5"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_list_and_show_prints_json(name: str, tmp_path: Path) -> None:
    assert json.loads(run(COMMANDS[name], tmp_path, "--json"))


def test_every_list_and_show_command_has_golden_files() -> None:
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="pygrid")
    found = set()
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        _, command, _ = group.resolve_command(context, [name])  # type: ignore[attr-defined]
        commands = {f"{name}-{child}": one for child, one in getattr(command, "commands", {}).items()} or {
            name: command
        }
        found |= {path for path, one in commands.items() if any("--json" in option.opts for option in one.params)}
    assert found - {"worker-doctor", "doctor-store"} | {"budget-show-folder"} == {
        path.stem.rpartition("-")[0] for path in GOLDEN.iterdir()
    }
