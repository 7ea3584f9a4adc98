"""Recording of error codes: which there are, with which classes and statuses they are raised."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from typing import Any

from pygrid import errors
from support.snapshots.sources import Passed, bare_name, functions, passed, texts_of, trees

_CODE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_CLASSES = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, errors.PygridError)
}


def error_codes() -> dict[str, Any]:
    """Two maps. ``errors``: code -> class -> status; a code without a class is a field of an answer. ``reasons``: the
    values of refusals, which are codes of a Forbidden or labels of a metric.
    """
    found: dict[str, dict[str, int]] = {cls.default_code: {name: cls.status} for name, cls in _CLASSES.items()}
    for item in passed("code"):
        for code in _codes(item):
            found.setdefault(code, {}).update({name: _CLASSES[name].status for name in _classes(item)})
    for code in _plain_codes():
        found.setdefault(code, {})
    return {"errors": found, "reasons": sorted(_reasons())}


def _codes(item: Passed) -> set[str]:
    """The codes that an argument can be. ``NAME[0]`` is the first text of a module's pairs (code, text)."""
    if isinstance(item.value, ast.Subscript):
        return {code for code, text in _pairs(trees()[item.path]) if " " in text}
    return {code for code in texts_of(item.value) if _CODE.fullmatch(code)}


def _pairs(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            code, text = (item.value if isinstance(item, ast.Constant) else None for item in node.elts)
            if isinstance(code, str) and isinstance(text, str) and _CODE.fullmatch(code):
                yield code, text


def _classes(item: Passed) -> set[str]:
    """Names of the error classes that the called function makes: it is one, or returns or raises one with this code."""
    if item.function in _CLASSES:
        return {item.function}
    if item.function in (derived := _derived()):
        return {derived[item.function]}
    known = functions().get(item.function, [])
    made = set()
    for _, function in [one for one in known if one[0] == item.path] or known:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and any(word.arg == "code" for word in node.keywords):
                made |= {bare_name(node.func)} & _CLASSES.keys()
    return made


@functools.cache
def _derived() -> dict[str, str]:
    """Classes of other modules, which users see as the class of `pygrid.errors` that they derive from."""
    return {
        node.name: bare_name(base)
        for tree in trees().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name not in _CLASSES
        for base in node.bases
        if bare_name(base) in _CLASSES
    }


def _plain_codes() -> set[str]:
    """Codes that no call has: values of ``"code"`` in literal objects and of tables from a status to a code, and those
    that the code of an error is compared with.
    """
    found: set[str] = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and bare_name(node.left) == "code":
                found |= {code for value in node.comparators for code in texts_of(value) if _CODE.fullmatch(code)}
            if isinstance(node, ast.Dict):
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                texts = [texts_of(value) for key, value in zip(keys, node.values, strict=True) if _names_a_code(key)]
                found |= {code for code in set().union(*texts) if _CODE.fullmatch(code)}
    return found


def _names_a_code(key: object) -> bool:
    return key == "code" or (type(key) is int and 400 <= key < 600)


def _reasons() -> set[str]:
    """Values of all enums and `Literal` aliases whose name ends with Refusal, Reason or FailureKind."""
    found: set[str] = set()
    for tree in trees().values():
        for node in tree.body:
            is_enum = isinstance(node, ast.ClassDef) and any("Enum" in bare_name(base) for base in node.bases)
            is_literal = isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
            if (is_enum or is_literal) and _name_of(node).endswith(("Refusal", "Reason", "FailureKind")):
                found |= {text for part in ast.walk(node) for text in _text(part) if _CODE.fullmatch(text)}
    return found


def _name_of(node: ast.stmt) -> str:
    if isinstance(node, ast.ClassDef):
        return node.name
    return bare_name(node.targets[0]) if isinstance(node, ast.Assign) else ""


def _text(node: ast.AST) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()
