"""The reference pages of the site and the JSON files next to them, written from the code.

`docs/conf.py` writes the pages before Sphinx reads them, so they are not in git. `scripts/schemas` writes the JSON
files, which are in git.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
import tempfile
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import typer
from litestar import Litestar
from reference_examples import OPTIONS, PLACEHOLDERS, SETTINGS

from pygrid import codes, configuration, messages
from pygrid.cli import app as pygrid_command
from pygrid.configs import Config, default_of, describe_kind, field_types
from pygrid.core.access import AppAccess
from pygrid.domain import build_domain
from pygrid.messages.accounts import PERMISSIONS
from pygrid.network import build_network
from pygrid.settings import DomainSettings, NetworkSettings, load_network_settings, load_settings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"


class Running(NamedTuple):
    """What an app shows of itself while it runs."""

    openapi: dict[str, Any]
    metrics: list[tuple[str, str, tuple[str, ...], str]]
    """Name, type, labels and help of each metric family of pygrid."""


@functools.cache
def running(name: str) -> Running:
    """What a Domain (``domain``) or a Network (``network``) shows, started with the default settings."""

    async def look(app: Litestar) -> Running:
        async with app.lifespan():
            document = json.loads(json.dumps(app.openapi_schema.to_schema()))
            return Running(document, list(_families(app.state.metrics.registry)))

    with tempfile.TemporaryDirectory(prefix="pygrid-docs-") as folder:
        data_dir = Path(folder) / "data"
        if name == "domain":
            return asyncio.run(look(build_domain(load_settings({}, data_dir=data_dir))))
        return asyncio.run(look(build_network(load_network_settings({}, data_dir=data_dir))))


def _families(registry: Any) -> Iterable[tuple[str, str, tuple[str, ...], str]]:
    for collector in registry._collector_to_names:
        labels = tuple(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            if family.name.startswith("pygrid_"):
                yield family.name, family.type, labels, family.documentation


def settings_page() -> str:
    """Variables, flags, defaults and meanings of all settings, by app and panel."""
    parts = [
        "# Settings",
        "A flag wins over the environment variable, and the variable over the default.",
        "An empty variable counts as not set. Variables that are yes or no take `1` or `0`.",
        "[Configure an app](../how-to/configure.md) explains which settings belong together.",
    ]
    for kind, command in ((DomainSettings, "domain"), (NetworkSettings, "network")):
        parts.append(f"\n## Settings of a {command.capitalize()}\n\nThe command is `pygrid {command}`.\n")
        fields = [field for field in dataclasses.fields(kind) if "env" in field.metadata]
        for panel in dict.fromkeys(field.metadata["panel"] for field in fields):
            of_panel = [field for field in fields if field.metadata["panel"] == panel]
            rows = [_setting_row(field) for field in of_panel]
            parts.append(
                f"### {panel} ({command})\n\n" + _table(("variable", "flag", "default", "example", "meaning"), rows)
            )
        older = [field for field in fields if field.metadata["also"]]
        parts += [
            f"`{field.metadata['also']}` is an older name of `{field.metadata['env']}`; it counts if that is not set."
            for field in older
        ]
    return "\n".join(parts) + "\n"


def _setting_row(field: dataclasses.Field[Any]) -> tuple[str, str, str, str, str]:
    flags = [flag for flag in (field.metadata["flag"], *field.metadata["more_flags"]) if flag]
    default = field.default
    shown = (
        ""
        if default in ("", None, dataclasses.MISSING)
        else f"`{int(default) if default in (True, False) else default}`"
    )
    variable = field.metadata["env"]
    example = shown.strip("`") or SETTINGS[variable]
    return f"`{variable}`", ", ".join(f"`{flag}`" for flag in flags), shown, f"`{example}`", field.metadata["help"]


def configuration_page() -> str:
    """Every field of the configurations of a process: what it takes, its default, an example and its meaning."""
    parts = [
        "# Configuration of a process",
        "`domain.host(..., server_config=..., client_config=...)` takes the classes of this page, or mappings with the "
        "same fields; `pygrid host` takes `-s field=value` and `-c field=value`, or JSON files.",
        "The Domain checks them when a process is hosted, and reports all faults at once.",
        "A field that has no effect with the others is refused.",
        "[Choose the settings of cycles](../how-to/cycle-settings.md) explains which values fit.",
    ]
    for kind in configurations():
        rows = [
            (f"`{field.name}`", _limits(kind, field.name), _json(field), f"`{_example(kind, field.name)}`", meaning)
            for field, meaning in zip(msgspec.structs.fields(kind), _meanings(kind), strict=True)
        ]
        words = _prose(inspect.cleandoc(kind.__doc__ or ""))
        parts.append(f"\n## {kind.__name__}\n\n{words}\n")
        parts.append(_table(("field", "takes", "default", "example", "meaning"), rows))
    return "\n".join(parts) + "\n"


def configurations() -> list[type[Config]]:
    """The classes of the configuration of a process, as users write them."""
    found = [getattr(configuration, name) for name in configuration.__all__]
    kinds = [one for one in found if isinstance(one, type) and issubclass(one, Config)]
    return sorted(kinds, key=lambda kind: (kind.__name__ not in ("ServerConfig", "ClientConfig"), kind.__name__))


def _limits(kind: type[Config], name: str) -> str:
    return describe_kind(*field_types(kind)[name])


def _json(field: Any) -> str:
    if field.required:
        return "required"
    default = default_of(field)
    return "" if default is msgspec.UNSET else f"`{msgspec.json.encode(_plain(default)).decode()}`"


def _plain(value: Any) -> Any:
    return value.written() if isinstance(value, Config) else value


def _example(kind: type[Config], name: str) -> str:
    spec = field_types(kind)[name][1]
    if spec is None:
        raise ValueError(f"{kind.__name__}.{name} has no example")
    return msgspec.json.encode(spec.example).decode()


def _meanings(kind: type[Config]) -> list[str]:
    """The text below each field in the source of a class."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    texts = {
        node.target.id: after.value.value
        for node, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    return [_prose(" ".join(str(texts[name]).split())) for name in kind.__struct_fields__]


def _prose(text: str) -> str:
    """A docstring as text of a page: its literals stay as they are, all other marks are escaped."""
    parts = re.split(r"``(.+?)``|`(.+?)`", text)
    code = (f"`{double or single}`" for double, single in zip(parts[1::3], parts[2::3], strict=True))
    return "".join(plain + literal for plain, literal in zip(map(_escape, parts[::3]), [*code, ""], strict=True))


def cli_page() -> str:
    """Every command of `pygrid` with its arguments, options, variables and defaults."""
    group = typer.main.get_command(pygrid_command)
    context = group.context_class(group, info_name="pygrid")
    parts = [
        "# Commands",
        "Each command exits with 0 if it did what was asked, and with 1 and an explanation if not.",
        "After Ctrl-C it exits with 130.",
        "`-h` and `--help` show the help of a command.",
        *_command_section("pygrid", group, deep=False),
    ]
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        _, command, _ = group.resolve_command(context, [name])  # type: ignore[attr-defined]
        parts += _command_section(f"pygrid {name}", command)
    return "\n".join(parts) + "\n"


def _command_section(path: str, command: Any, *, deep: bool = True) -> list[str]:
    words = _escape(_first_paragraph(command.help or ""))
    parts = [f"\n## {path}\n\n{words}\n"]
    context = command.context_class(command, info_name=path)
    rows = [
        _parameter_row(parameter, context) for parameter in command.params if not getattr(parameter, "hidden", False)
    ]
    if rows:
        parts.append(_table(("argument or option", "default", "example", "meaning"), rows))
    if example := inspect.cleandoc(command.help or "").partition("Example:")[2].strip("\n"):
        parts.append("Example:\n\n" + textwrap.indent(textwrap.dedent(example).strip(), "    ") + "\n")
    for name, child in getattr(command, "commands", {}).items() if deep else ():
        parts += _command_section(f"{path} {name}", child)
    return parts


def _parameter_row(parameter: Any, context: Any) -> tuple[str, str, str, str]:
    if parameter.param_type_name == "argument":
        name = f"`{(parameter.metavar or parameter.name).upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    if isinstance(default, Path):
        default = re.sub(f"^{re.escape(str(Path.home()))}(?=/|$)", "~", str(default))
    is_shown = default not in (None, False, "", (), []) and not callable(default) and "_Unset" not in repr(default)
    meaning = _escape(" ".join(str(getattr(parameter, "help", "") or "").split()))
    variable = f" Variable: `{parameter.envvar}`." if parameter.envvar else ""
    shown = f"`{getattr(default, 'value', default)}`" if is_shown else ""
    return name, shown, f"`{_parameter_example(parameter, context)}`", meaning + variable


def _parameter_example(parameter: Any, context: Any) -> str:
    """An option with a value, or the value of an argument. Raises KeyError: there is none for this placeholder."""
    if parameter.param_type_name == "argument":
        return PLACEHOLDERS[(parameter.metavar or parameter.name).upper()]
    option = max(parameter.opts, key=len)
    if parameter.is_flag or parameter.count:
        return option
    # ``-p, --port INTEGER RANGE``, or ``--level [info|error]``
    written = re.sub(r"^(-[\w-]+(, | / )?)+\s*", "", parameter.get_help_record(context)[0])
    choices = re.match(r"\[([^|\]]+)\|", written)
    return f"{option} {OPTIONS.get(option) or (choices[1] if choices else PLACEHOLDERS[written])}"


def _first_paragraph(text: str) -> str:
    return " ".join(inspect.cleandoc(text).replace("\b", "").split("\n\n")[0].split())


def errors_page() -> str:
    """Every error code with its statuses and meaning."""
    found = [value for value in vars(codes).values() if isinstance(value, codes.Code)]
    rows = [(f"`{code}`", ", ".join(map(str, code.statuses)), _escape(code.meaning)) for code in found]
    parts = [
        "# Errors\n",
        "A refused request is answered with a problem document (RFC 9457).",
        "It has a stable `code` and a `detail` for people.",
        "A code without a status is a field of an answer, for example the reason of a failed job.",
        "The SDKs raise the classes of `pygrid.errors`, whose errors have the same `code`.\n",
        _table(("code", "status", "meaning"), rows),
        "## Classes\n\n```{eval-rst}\n.. automodule:: pygrid.errors\n   :undoc-members:\n```",
    ]
    return "\n".join(parts) + "\n"


def metrics_page() -> str:
    """Every metric family of a Domain and of a Network."""
    parts = ["# Metrics", "`GET /metrics` returns them in the text format of Prometheus."]
    for name in ("domain", "network"):
        rows = [
            (f"`{family}`", kind, ", ".join(f"`{label}`" for label in labels), _escape(text))
            for family, kind, labels, text in sorted(running(name).metrics)
        ]
        parts.append(
            f"\n## Metrics of a {name.capitalize()}\n\n" + _table(("metric", "type", "labels", "meaning"), rows)
        )
    return "\n".join(parts) + "\n"


def openapi_page() -> str:
    """Every route of both apps with the statuses of its answers; the whole documents are JSON files."""
    parts = [
        "# HTTP routes",
        "The OpenAPI documents are `openapi-domain.json` and `openapi-network.json` in `docs/reference`.",
        "A running app serves its own at `/schema/openapi.json`.",
    ]
    for name in ("domain", "network"):
        rows = []
        for path, item in sorted(running(name).openapi["paths"].items()):
            for method, operation in item.items():
                if isinstance(operation, Mapping) and "operationId" in operation:
                    statuses = ", ".join(sorted(operation["responses"]))
                    rows.append((f"{method.upper()} `{path}`", f"`{operation['operationId']}`", statuses))
        parts.append(f"\n## Routes of a {name.capitalize()}\n\n" + _table(("route", "operation", "statuses"), rows))
    return "\n".join(parts) + "\n"


def messages_page() -> str:
    """Every struct of `pygrid.messages` with its fields."""
    parts = [
        "# Messages",
        "The bodies of requests and answers are JSON objects with these fields.",
        "The JSON schemas are in `docs/reference/messages.schema.json`.",
        "`tests/vectors/messages` has an example of each.",
    ]
    module = ""
    for struct in structs():
        if struct.__module__ != module:
            module = struct.__module__
            parts.append(f"\n## {module.rpartition('.')[2]}\n")
        tag = struct.__struct_config__.tag
        parts.append(f"### {struct.__name__}\n")
        if tag:
            parts.append(f"The field `{struct.__struct_config__.tag_field}` is `{tag}`.\n")
        rows = [
            (
                f"`{field.encode_name}`",
                f"`{_type_name(field.type)}`".replace("|", "\\|"),
                "yes" if field.required else "",
            )
            for field in msgspec.structs.fields(struct)
        ]
        parts.append(_table(("field", "type", "required"), rows) if rows else "It has no further fields.\n")
    return "\n".join(parts) + "\n"


def structs() -> list[type[msgspec.Struct]]:
    """The structs of `pygrid.messages`, by module, in the order of their declaration."""
    found: list[type[msgspec.Struct]] = []
    for item in pkgutil.iter_modules(messages.__path__):
        module = importlib.import_module(f"pygrid.messages.{item.name}")
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
            if not value.__name__.startswith("_")
        ]
    return found


def _type_name(kind: Any) -> str:
    """A type as it is written: names without modules, without `UNSET` and what `Annotated` adds."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(one) for one in arguments if one is not msgspec.UnsetType)
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if one is ... else _type_name(one) for one in arguments)}]"
    return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))


def _escape(text: str) -> str:
    return re.sub(r"([|<>*_\[\]])", r"\\\1", text)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def roles_table(access: AppAccess) -> str:
    """The permissions of an app, and which roles of a new one have each of them; ``docs/how-to/roles.md`` has it."""
    rows = [
        (
            f"`{permission}`",
            PERMISSIONS[permission],
            *("yes" if permission in role.permissions else "" for role in access.roles),
        )
        for permission in access.permissions
    ]
    return _table(("permission", "allows to", *(role.name for role in access.roles)), rows)


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "configuration.md": configuration_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "messages.md": messages_page,
    "openapi.md": openapi_page,
}


def message_schemas() -> Any:
    """The JSON schema of each struct of `pygrid.messages`, by its name."""
    _, found = msgspec.json.schema_components(
        structs(), schema_hook=lambda _kind: {"description": "any"}, ref_template="#/$defs/{name}"
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": _without_texts(found, is_map=True)}


def code_list() -> Any:
    """Statuses and meaning of each error code."""
    found = [value for value in vars(codes).values() if isinstance(value, codes.Code)]
    return {str(code): {"statuses": list(code.statuses), "meaning": code.meaning} for code in found}


def _without_texts(node: Any, *, is_map: bool = False) -> Any:
    """A schema without descriptions and summaries, so that a reworded docstring changes no file."""
    if isinstance(node, list):
        return [_without_texts(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if is_map or key not in ("description", "summary")}
    return {key: _without_texts(value, is_map=not is_map and key in _MAPS) for key, value in kept.items()}


_MAPS = {"properties", "schemas", "$defs"}
"""Keys whose value is an object with names for keys."""

SCHEMAS: Mapping[str, Callable[[], Any]] = {
    "messages.schema.json": message_schemas,
    "codes.json": code_list,
    "openapi-domain.json": lambda: _without_texts(running("domain").openapi),
    "openapi-network.json": lambda: _without_texts(running("network").openapi),
}


def schema_text(name: str) -> str:
    """The text of one of the JSON files."""
    return json.dumps(SCHEMAS[name](), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_schemas(folder: Path = FOLDER) -> list[str]:
    """Write the JSON files; returns the names of those that changed."""
    changed = [
        name for name in SCHEMAS if not (folder / name).exists() or (folder / name).read_text() != schema_text(name)
    ]
    for name in changed:
        (folder / name).write_text(schema_text(name))
    return changed


def write_pages(folder: Path = FOLDER) -> None:
    """Write the pages whose text has changed."""
    for name, make in PAGES.items():
        path, text = folder / name, make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
