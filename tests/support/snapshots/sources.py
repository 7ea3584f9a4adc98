"""The source of pygrid as syntax trees: what is written there but can't be seen from outside."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import pygrid
from pygrid import codes

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """The tree of each module, by its file."""
    return {path: ast.parse(path.read_text()) for path in sorted(Path(pygrid.__file__).parent.rglob("*.py"))}


@functools.cache
def functions() -> dict[str, list[tuple[Path, Function]]]:
    """All functions and methods by their bare name."""
    found: dict[str, list[tuple[Path, Function]]] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                found.setdefault(node.name, []).append((path, node))
    return found


@functools.cache
def classes() -> dict[str, list[tuple[Path, ast.ClassDef]]]:
    """All classes by their bare name."""
    found: dict[str, list[tuple[Path, ast.ClassDef]]] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append((path, node))
    return found


@functools.cache
def constants() -> dict[str, set[str]]:
    """Texts of module constants by name: of ``NAME = "text"``, and of the first argument of ``NAME = Kind("text",
    ...)``. Those of `pygrid.codes` are left out, because they are used as ``codes.NAME`` only.
    """
    found: dict[str, set[str]] = {}
    for path, tree in trees().items():
        if path.name == "codes.py":
            continue
        for node in tree.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            value = node.value
            if isinstance(value, ast.Call) and value.args:
                value = value.args[0]
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    found.setdefault(bare_name(target), set()).add(value.value)
    return found


class Passed(NamedTuple):
    """An argument for a parameter of a certain name."""

    path: Path
    function: str
    """Bare name of the function or class that is called."""
    call: ast.Call
    value: ast.expr


def passed(parameter: str) -> Iterator[Passed]:
    """All arguments for parameters of this name: by keyword in any call, by position in calls of functions and
    dataclasses of pygrid.
    """
    for path, tree in trees().items():
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            name = bare_name(call.func)
            yield from (Passed(path, name, call, item.value) for item in call.keywords if item.arg == parameter)
            for index in _positions(path, name, parameter):
                if index < len(call.args):
                    yield Passed(path, name, call, call.args[index])


def _positions(path: Path, name: str, parameter: str) -> set[int]:
    """Where functions and classes of this name take it; those of the same file, if there are any."""
    known = [*functions().get(name, []), *classes().get(name, [])]
    known = [item for item in known if item[0] == path] or known
    found = set()
    for _, node in known:
        if isinstance(node, ast.ClassDef):
            names = [bare_name(item.target) for item in node.body if isinstance(item, ast.AnnAssign)]
        else:
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        if names[:1] in (["self"], ["cls"]):
            del names[0]
        if parameter in names:
            found.add(names.index(parameter))
    return found


def bare_name(node: ast.expr) -> str:
    """``c`` for ``a.b.c``; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def texts_of(value: ast.expr) -> set[str]:
    """The texts that an expression can have: a literal, a constant's name, or a choice between them."""
    if isinstance(value, ast.IfExp):
        return texts_of(value.body) | texts_of(value.orelse)
    if isinstance(value, ast.BoolOp):
        return set().union(*map(texts_of, value.values))
    if isinstance(value, ast.Set | ast.Tuple):
        return set().union(*map(texts_of, value.elts))
    if isinstance(value, ast.Constant):
        return {value.value} if isinstance(value.value, str) else set()
    name = bare_name(value)
    if isinstance(value, ast.Attribute) and bare_name(value.value) == "codes":
        return {str(getattr(codes, name))}
    return constants().get(name, set()) if name.strip("_").isupper() else set()


@functools.cache
def literals() -> frozenset[str]:
    """All texts in the source but docstrings: the constants of the compiled modules."""
    found: set[str] = set()
    files = Path(pygrid.__file__).parent.rglob("*.py")
    pending: list[object] = [compile(path.read_text(), str(path), "exec", optimize=2) for path in files]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            found.add(one)
        elif isinstance(one, CodeType):
            pending.extend(one.co_consts)
        elif isinstance(one, tuple | frozenset):
            pending.extend(one)
    return frozenset(found)
