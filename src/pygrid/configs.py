"""Classes of configuration values that people write, in Python or as JSON; one reader checks both.

    class Pool(Config, frozen=True, kw_only=True):
        size: Annotated[int, Spec(8, low=1, high=100)] = 4

    Pool(size=0)                             InvalidConfig: Pool.size is 0; it must be a whole number from 1 to 100
    read_config(Pool, {"sise": 5}, "pool")   InvalidConfig: pool has no field 'sise'; did you mean 'size'? ...

All faults are reported at once. A field that has no effect with the others is a fault, too.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from pygrid.errors import InvalidConfig

_SHOWN_CHARS = 80
_ALIASES = {
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "client_fraction": ("max_workers",),
    "clients": ("max_workers",),
    "cycles": ("num_cycles",),
    "deadline": ("cycle_length",),
    "duration": ("cycle_length",),
    "eta": ("lr", "learning_rate"),
    "grace": ("grace_s",),
    "iterations": ("max_updates", "num_cycles"),
    "local_epochs": ("epochs",),
    "max_clients": ("max_workers",),
    "max_steps": ("max_updates",),
    "min_available_clients": ("min_workers",),
    "min_clients": ("min_workers",),
    "min_fit_clients": ("min_diffs",),
    "num_clients": ("max_workers",),
    "num_epochs": ("epochs",),
    "num_rounds": ("num_cycles",),
    "num_steps": ("max_updates",),
    "optimizer": ("server_optimizer",),
    "rounds": ("num_cycles",),
    "server_lr": ("server_optimizer",),
    "step_size": ("lr", "learning_rate"),
    "steps": ("max_updates",),
    "strategy": ("aggregation",),
    "timeout": ("cycle_length",),
    "wd": ("weight_decay",),
}
"""Usual names of settings elsewhere -> names here."""

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Spec:
    """The range of a field, both ends included, and an example for its documentation."""

    example: Any
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FieldFault:
    """A fault of one field. ``field`` is its path without the name of the configuration: ``authentication.secret``."""

    field: str
    text: str


class ConfigMeta(msgspec.StructMeta):
    """Checks the values of a `Config` that is constructed in Python."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **values: Any) -> Any:
            fields = cls.__struct_fields__
            if len(args) + len(values) == len(fields):  # all of them, as `copy` and `pickle` pass them
                return super().__call__(*args, **values)
            return read_config(cls, {**dict(zip(fields, args, strict=False)), **values}, cls.__name__)


class Config(msgspec.Struct, metaclass=ConfigMeta, frozen=True, forbid_unknown_fields=True):
    """A configuration. Subclasses declare fields with a `Spec`, and `find_faults` compares them with each other."""

    def find_faults(self, given: Collection[str]) -> Iterator[FieldFault]:
        """Yield the faults of values that do not fit each other.

        Args:
            given: names of the fields that were written, also with their default.
        """
        yield from ()

    def written(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON values."""
        values: dict[str, Any] = {}
        for field in fields_of(type(self)):
            value = getattr(self, field.name)
            if field.required or value != default_of(field):
                values[field.name] = _written(value)
        return values


def _written(value: Any) -> Any:
    if isinstance(value, Config):
        return value.written()
    if isinstance(value, Mapping):
        return {name: _written(item) for name, item in value.items()}
    return msgspec.to_builtins(value)


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def read_config(kind: type[C], raw: object, root: str) -> C:
    """Return the configuration that ``raw`` describes: decoded JSON, or keyword arguments.

    Args:
        root: name of the configuration in messages.
    Raises:
        InvalidConfig: ``field`` names the first fault, ``faults`` all of them if there are several.
    """
    reader = _Reader(root)
    made = reader.read_object(kind, raw, "")
    if reader.faults or made is None:
        raise invalid_config(reader.faults)
    return made


def invalid_config(faults: Sequence[FieldFault], code: str | None = None) -> InvalidConfig:
    """The error for one or more faults of a configuration."""
    if len(faults) == 1:
        return InvalidConfig(faults[0].text, code=code, field=faults[0].field)
    text = f"{len(faults)} faults:" + "".join(f"\n- {fault.text}" for fault in faults)
    listed = [{"field": fault.field, "detail": fault.text} for fault in faults]
    return InvalidConfig(text, code=code, field=faults[0].field, faults=listed)


def unknown_field(root: str, name: str, known: Collection[str]) -> str:
    """The text about a field that does not exist, with the names that do."""
    near = find_near(name, known)
    meant = f"did you mean {near!r}? " if near else ""
    return f"{root} has no field {shown(name)}; {meant}its fields are {listed(sorted(known), 'and')}"


def find_near(name: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The known name that the writer of another name probably meant: ``learning_rate`` for ``lr``, or a typing error.

    Args:
        cutoff: smallest similarity of the two names, 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    candidates = {each.lower(): each for each in known}
    wanted = name.strip().lower().replace("-", "_").replace(" ", "_")
    if wanted in candidates:
        return candidates[wanted]
    for other in (*_ALIASES.get(wanted, ()), *_ALIASES.get(wanted.removeprefix("num_"), ())):
        if other in candidates:
            return candidates[other]
    for each, original in candidates.items():
        if (len(each) > 1 and _initials(wanted) == each) or (len(wanted) > 1 and _initials(each) == wanted):
            return original
    found = difflib.get_close_matches(wanted, candidates, n=1, cutoff=cutoff)
    return candidates[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: a known name that is near; empty: there is none."""
    near = find_near(name, known)
    return f"; did you mean {near!r}?" if near else ""


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def listed(names: Sequence[str], word: str = "or") -> str:
    """Names as a list for people: ``a, b or c``."""
    return " ".join((", ".join(names[:-1]), word, names[-1])) if len(names) > 1 else "".join(names)


def shown(value: object) -> str:
    """A value of somebody else, cut to a length that fits a message."""
    text = repr(value) if not isinstance(value, bool | None) else {None: "null", True: "true", False: "false"}[value]
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


@cache
def fields_of(kind: type[Config]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a class. Cached, because msgspec reads the annotations again at each call, which takes 2 ms."""
    return msgspec.structs.fields(kind)


@cache
def field_types(kind: type[Config]) -> dict[str, tuple[Any, Spec | None]]:
    """The type of each field, without `UNSET` and what `Annotated` adds, and its `Spec`."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name in kind.__struct_fields__:
            is_annotated = typing.get_origin(hint) is typing.Annotated
            found[name] = _without_annotation(hint, None) if is_annotated else (hint, None)
    return found


def _without_annotation(hint: Any, spec: Spec | None) -> tuple[Any, Spec | None]:
    return hint.__origin__, next((one for one in hint.__metadata__ if isinstance(one, Spec)), spec)


def options_of(hint: Any) -> tuple[list[Any], bool]:
    """The types of a union without None and `UNSET`, and whether None is one."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return [hint], False
    args = typing.get_args(hint)
    return [one for one in args if one not in (types.NoneType, msgspec.UnsetType)], types.NoneType in args


def describe_kind(hint: Any, spec: Spec | None = None) -> str:
    """What a field takes, in words: ``a whole number from 0 to 10, or null``."""
    options, may_be_null = options_of(hint)
    text = listed([_describe_option(option, spec) for option in options])
    return f"{text}, or null" if may_be_null else text


def _describe_option(hint: Any, spec: Spec | None) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        return _describe_option(
            hint.__origin__, next((one for one in hint.__metadata__ if isinstance(one, Spec)), spec)
        )
    origin = typing.get_origin(hint)
    if origin is Literal:
        return listed([str(one) for one in typing.get_args(hint)])
    if origin is tuple:
        return f"a list, each {_describe_option(typing.get_args(hint)[0], spec)}"
    if origin is Mapping or hint is Any or (isinstance(hint, type) and issubclass(hint, Config)):
        return "an object"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[hint]
    if spec is not None and spec.low is not None and spec.high is not None:
        return f"{words} from {spec.low:g} to {spec.high:.15g}"
    return words


class _Reader:
    """Reads one configuration and collects its faults."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.faults: list[FieldFault] = []

    def read_object(self, kind: type[C], raw: object, path: str) -> C | None:
        """The object, or None if it has faults."""
        if isinstance(raw, kind):
            return raw
        if not isinstance(raw, Mapping):
            self._refuse(path, f"{self._name(path)} is {shown(raw)}; it must be an object with fields")
            return None
        num_before = len(self.faults)
        known = field_types(kind)
        for name in raw:
            if name not in known:
                self._refuse(_join(path, str(name)), unknown_field(self._name(path), str(name), known))
        for field in fields_of(kind):
            if field.required and field.name not in raw:
                text = f"{self._name(_join(path, field.name))} is required: {describe_kind(*known[field.name])}"
                self._refuse(_join(path, field.name), text)
        values = {
            name: self._read(known[name][0], known[name][1], raw[name], _join(path, name))
            for name in kind.__struct_fields__
            if name in raw and raw[name] is not msgspec.UNSET
        }
        if len(self.faults) > num_before:
            return None
        made: C = _construct(kind, values)
        for fault in made.find_faults(frozenset(values)):
            self._refuse(_join(path, fault.field), f"{self._name(_join(path, fault.field))} {fault.text}")
        return made

    def _read(self, hint: Any, spec: Spec | None, value: object, path: str) -> Any:
        options, may_be_null = options_of(hint)
        if value is None and may_be_null:
            return None
        for option in options:
            if typing.get_origin(option) is typing.Annotated:
                option, spec = _without_annotation(option, spec)
            origin = typing.get_origin(option)
            if isinstance(option, type) and issubclass(option, Config):
                if isinstance(value, Mapping | option) or len(options) == 1:
                    return self.read_object(option, value, path)
            elif origin is Mapping and isinstance(value, Mapping):
                inner = typing.get_args(option)[1]
                return {str(key): self._read(inner, spec, item, _join(path, str(key))) for key, item in value.items()}
            elif origin is tuple and isinstance(value, Sequence) and not isinstance(value, str | bytes):
                inner = typing.get_args(option)[0]
                return tuple(self._read(inner, spec, item, f"{path}[{n}]") for n, item in enumerate(value))
            elif _fits(option, spec, value):
                return float(value) if option is float else value  # type: ignore[arg-type]
        near = _near_choice(options, value)
        meant = f"; did you mean {near!r}?" if near else ""
        text = f"{self._name(path)} is {shown(value)}; it must be {describe_kind(hint, spec)}{meant}"
        self._refuse(path, text)
        return None

    def _name(self, path: str) -> str:
        return _join(self._root, path)

    def _refuse(self, path: str, text: str) -> None:
        self.faults.append(FieldFault(path, text))


def _construct(kind: type[C], values: dict[str, Any]) -> C:
    made: C = msgspec.StructMeta.__call__(kind, **values)
    return made


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _fits(option: Any, spec: Spec | None, value: object) -> bool:
    if typing.get_origin(option) is Literal:
        return isinstance(value, str) and value in typing.get_args(option)
    if option is Any:
        return True
    if (option is float and type(value) is int) or option is type(value):
        if option in (int, float):
            return _is_within(value, spec)
        return True
    return False


def _is_within(value: Any, spec: Spec | None) -> bool:
    try:
        number = float(value)
    except OverflowError:
        return False
    if not math.isfinite(number):
        return False
    low, high = (None, None) if spec is None else (spec.low, spec.high)
    return (low is None or value >= low) and (high is None or value <= high)


def _near_choice(options: Iterable[Any], value: object) -> str | None:
    choices = [str(c) for option in options if typing.get_origin(option) is Literal for c in typing.get_args(option)]
    return find_near(value, choices) if isinstance(value, str) and choices else None


def faults_of(error: InvalidConfig) -> list[FieldFault]:
    """The faults that an error of `invalid_config` reports."""
    listed = error.fields.get("faults")
    if listed:
        return [FieldFault(one["field"], one["detail"]) for one in listed]
    return [FieldFault(str(error.fields.get("field", "")), error.detail)]
