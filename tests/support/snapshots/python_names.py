"""Recording of the Python interface: names, signatures and bases, as users of the SDKs see them."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import functools
import importlib
import importlib.util
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

MODULES = ("pygrid", "pygrid.client", "pygrid.edge", "pygrid.plans", "pygrid.errors", "pygrid.transport")
NEEDS_TORCH = "pygrid"
"""Its names are those for authors of plans."""
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_UNSEEN = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__repr__", "__str__", "__eq__", "__hash__"}


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def public_api() -> dict[str, Any]:
    """The names of each public module, and ``types``: the classes that public signatures name, which users meet as
    values.

    A class is named as it is written in the signature, never by the module that defines it. Without PyTorch the names
    that need it are left out.
    """
    found: dict[str, Any] = {}
    types_met = _Types()
    for name in MODULES:
        if name != NEEDS_TORCH or has_torch():
            module = importlib.import_module(name)
            found[name] = {member: _describe(getattr(module, member), types_met) for member in _names(module)}
    public = {id(getattr(importlib.import_module(name), member)) for name in found for member in found[name]}
    found["types"] = {}
    for cls in types_met.grow():
        if id(cls) not in public:
            num_known = sum(name.split()[0] == cls.__name__ for name in found["types"])
            key = f"{cls.__name__} ({num_known + 1})" if num_known else cls.__name__
            found["types"][key] = _describe_class(cls, types_met)
    return found


def _names(module: types.ModuleType) -> list[str]:
    """What a module offers: ``__all__``, ``__version__``, and functions and classes of pygrid that have a public name
    in it.

    A package offers what its modules define, and modules of others under a name of its own (``pygrid.optim``).
    """
    names = set(getattr(module, "__all__", ())) | {"__version__"} & vars(module).keys()
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            is_offered = value.__name__.startswith("pygrid.") and value.__name__ != f"{module.__name__}.{name}"
        else:
            origin = getattr(value, "__module__", None) or ""
            is_own = origin.split(".")[0] == "pygrid" if hasattr(module, "__path__") else origin == module.__name__
            is_offered = is_own and callable(value)
        if is_offered and not name.startswith("_"):
            names.add(name)
    return sorted(names)


class _Types:
    """Classes of pygrid that signatures name."""

    def __init__(self) -> None:
        self._found: dict[int, type] = {}

    def add(self, text: str, scope: dict[str, Any]) -> None:
        """Find the classes in an annotation that is text."""
        for node in ast.walk(ast.parse(text, mode="eval")):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                self._meet(scope.get(node.value))
            elif isinstance(node, ast.Name | ast.Attribute):
                self._meet(_value(node, scope))

    def _meet(self, value: Any) -> None:
        if inspect.isclass(value) and value.__module__.split(".")[0] == "pygrid":
            self._found.setdefault(id(value), value)
        for part in typing.get_args(value):
            self._meet(part)

    def grow(self) -> Iterator[type]:
        """All of them, also those that are added meanwhile."""
        at = 0
        while at < len(self._found):
            yield list(self._found.values())[at]
            at += 1


def _value(node: ast.expr, scope: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id, getattr(builtins, node.id, None))
    return getattr(_value(node.value, scope), node.attr, None) if isinstance(node, ast.Attribute) else None


@functools.cache
def _scope(module: str) -> dict[str, Any]:
    """The names that annotations in a module can use, also those that it imports for type checkers only."""
    loaded = sys.modules[module]
    found = dict(vars(loaded))
    for node in ast.parse(Path(inspect.getfile(loaded)).read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for item in node.body:
                if isinstance(item, ast.ImportFrom) and str(item.module).startswith("pygrid"):
                    source = importlib.import_module(str(item.module))
                    found |= {alias.asname or alias.name: getattr(source, alias.name) for alias in item.names}
    return found


def _describe(value: Any, met: _Types) -> Any:
    if isinstance(value, types.ModuleType):
        return {name: _describe(getattr(value, name), met) for name in _names(value)}
    if inspect.isclass(value):
        return _describe_class(value, met)
    if inspect.isroutine(value):
        return _signature(value, met, value.__module__)
    return f"= {_default(value)}" if not isinstance(value, str) else "text"


def _describe_class(cls: type, met: _Types) -> dict[str, Any]:
    found: dict[str, Any] = {"bases": _bases(cls), "members": _members(cls, met)}
    if issubclass(cls, enum.Enum):
        found["values"] = {member.name: member.value for member in cls}
    elif not getattr(cls, "_is_protocol", False) and not typing.is_typeddict(cls):
        found["signature"] = _signature(cls, met, cls.__module__)
    return found


def _bases(cls: type) -> list[str]:
    """Names of all base classes that have a public name; what only shares code is left out."""
    hidden = {object, typing.Generic, typing.Protocol}
    return sorted(
        {base.__name__ for base in cls.__mro__[1:] if base not in hidden and not base.__name__.startswith("_")}
    )


def _members(cls: type, met: _Types) -> dict[str, str]:
    """Methods, properties, fields and constants, also of base classes in pygrid; attributes that constructors set."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if owner.__module__.split(".")[0] != "pygrid":
            continue
        scope = _scope(owner.__module__)
        for name in _set_by_constructor(owner):
            found.setdefault(name, "attribute")
        for name, annotation in inspect.get_annotations(owner).items():
            if not name.startswith("_"):
                text = _annotation(annotation)
                met.add(text, scope)
                found[name] = f": {text}"
        for name, value in list(owner.__dict__.items()):
            if text := _member(name, value, owner, met):
                found[name] = text
    if type(cls).__module__.split(".")[0] == "pygrid":  # a metaclass: what the class itself can do
        for name, value in vars(type(cls)).items():
            if text := _member(name, value, type(cls), met):
                found[f"class {name}"] = text
    return found


def _member(name: str, value: Any, owner: type, met: _Types) -> str:
    if isinstance(value, property | functools.cached_property):
        getter = value.fget if isinstance(value, property) else value.func
        return (
            "" if name.startswith("_") else f"property {_signature(getter, met, owner.__module__).partition(' -> ')[2]}"
        )
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    if isinstance(function, types.FunctionType):
        is_special = name.startswith("__") and name.endswith("__") and name not in _UNSEEN
        is_written = not function.__code__.co_filename.startswith("<")
        if is_written and (is_special or not name.startswith("_")):
            prefix = f"{type(value).__name__} " if value is not function else ""
            return prefix + _signature(function, met, owner.__module__)
    elif not name.startswith("_") and isinstance(value, str | int | float | bool) and not issubclass(owner, enum.Enum):
        is_constant = "ClassVar" in str(inspect.get_annotations(owner).get(name, "ClassVar"))
        return f"= {value!r}" if is_constant else ""
    return ""


def _set_by_constructor(cls: type) -> set[str]:
    """Public names that ``__init__`` sets on ``self``."""
    init = inspect.unwrap(cls.__dict__.get("__init__", object.__init__))
    # That of a dataclass is generated, and that of a protocol belongs to the standard library.
    if not isinstance(init, types.FunctionType) or init.__code__.co_filename != inspect.getfile(cls):
        return set()
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return {name for name in found if not name.startswith("_")}


def _signature(value: Any, met: _Types, module: str) -> str:
    """``(name: type = default, ...) -> type``, as it is written."""
    scope = _scope(module)
    signature = inspect.signature(value)
    written = _field_annotations(value) if inspect.isclass(value) else {}

    def shown(annotation: Any) -> str:
        text = _annotation(annotation)
        met.add(text, scope)
        return text

    parts: list[str] = []
    previous = None
    # What begins with an underscore is for pygrid itself: private fields of dataclasses.
    for parameter in (item for item in signature.parameters.values() if not item.name.startswith("_")):
        if previous is inspect.Parameter.POSITIONAL_ONLY and parameter.kind is not previous:
            parts.append("/")
        is_first_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY and previous is not parameter.kind
        if is_first_keyword and previous is not inspect.Parameter.VAR_POSITIONAL:
            parts.append("*")
        stars = _STARS.get(parameter.kind, "")
        annotation = written.get(parameter.name, parameter.annotation)
        text = stars + parameter.name
        if annotation is not parameter.empty:
            text += f": {shown(annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        parts.append(text)
        previous = parameter.kind
    if previous is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    returns = signature.return_annotation
    end = "" if inspect.isclass(value) or returns is signature.empty else f" -> {shown(returns)}"
    return f"({', '.join(parts)}){end}"


def _field_annotations(cls: type) -> dict[str, Any]:
    """Annotations of fields as written, of structs; the library evaluates those of their signature."""
    if not issubclass(cls, msgspec.Struct):
        return {}
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        found |= inspect.get_annotations(owner)
    return found


class _Short(ast.NodeTransformer):
    """``a.b.C`` becomes ``C``."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Name(node.attr)


def _annotation(value: Any) -> str:
    """An annotation as text, in which no name has its module."""
    if isinstance(value, typing.ForwardRef):  # of a typed dictionary
        value = value.__forward_arg__
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    return ast.unparse(_Short().visit(ast.parse(text.strip("'\""), mode="eval")))


def _default(value: Any) -> str:
    """A default as text, without addresses and modules; ``...`` for what is made anew for each call."""
    if value is None or (isinstance(value, bool | int | float | str | bytes) and not isinstance(value, enum.Enum)):
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple | list | set | frozenset):
        return f"{type(value).__name__}({', '.join(map(_default, value))})"
    if inspect.isclass(value) or inspect.isroutine(value):
        return str(value.__name__)
    if dataclasses.is_dataclass(value):
        fields = ", ".join(
            f"{field.name}={_default(getattr(value, field.name))}" for field in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({fields})"
    return "UNSET" if value is msgspec.UNSET else "..."
