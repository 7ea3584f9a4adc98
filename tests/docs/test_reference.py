"""The generated reference pages.

Should happen: every setting, command, option, error code, metric, route and message is on its page.
Should not happen: a page that shows a secret or a path of the machine that built it.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference

from pygrid import codes
from pygrid.configs import Config, describe_kind, faults_of, field_types, read_config
from pygrid.errors import InvalidConfig
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


def test_every_option_and_setting_has_a_meaning_a_default_and_an_example() -> None:
    """A row for each, with all four cells. An empty default: the option is required, or what its meaning says."""
    for name in ("settings.md", "cli.md"):
        heads: dict[str, int] = {}
        for line in page(name).splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
            if "meaning" in cells:
                heads = {head: place for place, head in enumerate(cells)}
            elif cells and cells[0].startswith("`"):
                assert len(cells) == len(heads), line
                assert len(cells[heads["example"]]) > 2, line
                assert cells[heads["meaning"]], line


def test_every_field_of_a_configuration_is_there_with_default_range_example_and_meaning() -> None:
    names = {kind.__name__ for kind in reference.configurations()}
    assert {"ServerConfig", "ClientConfig", "Authentication", "Aggregation", "ServerOptimizer"} <= names
    for kind in reference.configurations():
        section = page("configuration.md").partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0]
        rows = {row.split(" | ")[0]: row.strip("| ").split(" | ") for row in section.splitlines()}
        for field in msgspec.structs.fields(kind):
            _, takes, default, example, meaning = rows[f"| `{field.name}`"]
            spec = field_types(kind)[field.name][1]
            assert takes == describe_kind(*field_types(kind)[field.name])
            if spec is not None and spec.low is not None:
                assert f"from {spec.low:g} to" in takes
            assert default == "required" or field.default is msgspec.UNSET or default.startswith("`")
            # The example is a value that the field takes.
            assert "..." in example or reads_back(kind, field.name, msgspec.json.decode(example.strip("`")))
            assert len(meaning) > 10


def reads_back(kind: type[Config], name: str, example: Any) -> bool:
    """Whether only other fields are at fault, if any, when a field has this value."""
    try:
        read_config(kind, {name: example}, "")
    except InvalidConfig as error:
        faults = [fault for fault in faults_of(error) if fault.field.partition(".")[0] == name]
        return all("has no effect" in fault.text or "needs" in fault.text for fault in faults)
    return True


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
