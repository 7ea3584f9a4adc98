"""The generated reference pages.

Should happen: every setting, command, option, error code, metric, route and message is on its page.
Should not happen: a page that shows a secret or a path of the machine that built it.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import reference

from pygrid import codes
from pygrid.settings import DomainSettings, NetworkSettings
from support import snapshots


@functools.cache
def page(name: str) -> str:
    return reference.PAGES[name]()


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_has_one_title_and_no_path_of_this_machine(name: str) -> None:
    lines = page(name).splitlines()
    assert [line for line in lines if line.startswith("# ")] == lines[:1]
    assert str(Path.home()) not in page(name)
    assert str(reference.FOLDER.parents[1]) not in page(name)


def test_every_setting_is_there_with_its_variable_flag_and_meaning() -> None:
    rows = {row.split(" | ")[0]: row for row in page("settings.md").splitlines() if row.startswith("| `")}
    for kind in (DomainSettings, NetworkSettings):
        for field in dataclasses.fields(kind):
            row = rows[f"| `{field.metadata['env']}`"]
            assert field.metadata["flag"] is None or f"`{field.metadata['flag']}`" in row
            assert any(field.metadata["help"] in line for line in page("settings.md").splitlines())


def test_every_command_is_there_with_its_options() -> None:
    text = page("cli.md")
    for command, parameters in snapshots.read_json("cli.json")["commands"].items():
        section = text.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
        assert section, command
        for label, described in parameters.items():
            if described["kind"] == "option" and not described.get("hidden"):
                assert all(f"`{option}`" in section for option in label.split(" / ")), (command, label)


def test_every_error_code_is_there() -> None:
    text = page("errors.md")
    for code in vars(codes).values():
        if isinstance(code, codes.Code):
            assert f"| `{code}` |" in text


@pytest.mark.parametrize("app", ["domain", "network"])
def test_every_metric_is_there(app: str) -> None:
    section = page("metrics.md").partition(f"## Metrics of a {app.capitalize()}")[2].partition("\n## ")[0]
    for family in snapshots.read_json("metrics.json")[app]:
        assert f"| `{family}` |" in section


@pytest.mark.parametrize("app", ["domain", "network"])
def test_every_route_is_there(app: str) -> None:
    section = page("openapi.md").partition(f"## Routes of a {app.capitalize()}")[2].partition("\n## ")[0]
    paths: dict[str, Any] = snapshots.read_json(f"openapi-{app}.json")["paths"]
    for path, item in paths.items():
        for method in item:
            assert f"| {method.upper()} `{path}` |" in section


def test_every_message_is_there_with_its_fields() -> None:
    text = page("messages.md")
    for struct in reference.structs():
        section = text.partition(f"\n### {struct.__name__}\n")[2].partition("\n### ")[0]
        assert all(f"| `{name}` |" in section for name in struct.__struct_encode_fields__), struct
