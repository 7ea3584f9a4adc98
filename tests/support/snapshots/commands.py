"""Recording of the command line: commands, arguments, options, variables, defaults, exit codes."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pygrid.cli import app
from support.snapshots.sources import bare_name, trees


def command_line() -> dict[str, Any]:
    """Each command with its parameters, and the exit codes that the source names."""
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="pygrid")
    commands: dict[str, Any] = {"pygrid": _parameters(group)}
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        _, command, _ = group.resolve_command(context, [name])  # type: ignore[attr-defined]
        _record(f"pygrid {name}", command, commands)
    return {"commands": commands, "exit_codes": sorted(_exit_codes())}


def _record(path: str, command: Any, into: dict[str, Any]) -> None:
    into[path] = _parameters(command)
    for name, child in getattr(command, "commands", {}).items():
        _record(f"{path} {name}", child, into)


def _parameters(command: Any) -> dict[str, Any]:
    written = inspect.signature(command.callback, eval_str=True).parameters if command.callback else {}
    return {_label(parameter): _describe(parameter, written[parameter.name]) for parameter in command.params}


def _label(parameter: Any) -> str:
    return " / ".join([*parameter.opts, *parameter.secondary_opts])


def _describe(parameter: Any, written: inspect.Parameter) -> dict[str, Any]:
    """What is stable about a parameter in all versions of typer: types and bounds are read from the function's
    signature.
    """
    annotation, info = written.annotation, written.default
    if typing.get_origin(annotation) is Annotated:
        annotation, info = typing.get_args(annotation)
    kind, choices = _type(annotation)
    found: dict[str, Any] = {
        "kind": parameter.param_type_name,
        "type": kind,
        "default": _default(parameter.default),
        "required": parameter.required,
        "envvar": parameter.envvar,
        "nargs": parameter.nargs,
        "multiple": getattr(parameter, "multiple", False),
        "is_flag": getattr(parameter, "is_flag", False),
        "hidden": getattr(parameter, "hidden", False),
        "choices": choices,
        "min": getattr(info, "min", None),
        "max": getattr(info, "max", None),
        "prompts": bool(getattr(parameter, "prompt", None)),
    }
    usual = {"nargs": 1}
    return {key: value for key, value in found.items() if value not in (None, False, [], usual.get(key))}


def _type(annotation: Any) -> tuple[str, list[str]]:
    """The name of a type, without ``None``, of a list that of its items; and the values that a `Literal` or an enum
    lists.
    """
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    if typing.get_origin(annotation) is Literal:
        return "str", [str(member) for member in members]
    if members:
        return _type(members[0])
    if issubclass(annotation, enum.Enum):
        return "str", [str(member.value) for member in annotation]
    return str(annotation.__name__), []


def _default(value: Any) -> Any:
    if callable(value):
        return "computed"
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        # The home folder is another one for each user.
        return re.sub(f"^{re.escape(str(Path.home()))}(?=/|$)", "~", str(value))
    if isinstance(value, tuple | list):
        return [_default(item) for item in value]
    return value


def _exit_codes() -> set[int]:
    """Arguments of ``typer.Exit`` and ``sys.exit`` in commands: numbers, and the constants that stand for them."""
    numbers: dict[str, int] = {}
    given: list[ast.expr] = []
    for tree in (tree for path, tree in trees().items() if path.parent.name in ("cli", "deploy")):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and type(node.value.value) is int:
                numbers |= {bare_name(target): node.value.value for target in node.targets}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Exit", "sys.exit"):
                given += node.args
    found = {0}
    for value in given:
        if isinstance(value, ast.Constant) and type(value.value) is int:
            found.add(value.value)
        elif (name := bare_name(value)).isupper():
            found.add(numbers[name])
    return found
