"""Recording of the settings of a Domain and of a Network: names, types, defaults, and the values that are accepted."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pygrid.errors import InvalidConfig
from pygrid.settings import DomainSettings, NetworkSettings, load_network_settings, load_settings

_LARGEST = 2**40
"""A number above that is accepted means that there is no upper bound."""
_LONGEST = 1000
_LARGEST_MINIMUM = 64
"""A text whose shortest length is above is recorded without lengths."""


def setting_fields() -> dict[str, Any]:
    """Each field of each class of settings, by the class's app."""
    classes = ((DomainSettings, load_settings), (NetworkSettings, load_network_settings))
    return {
        cls.app: {field.name: _describe(cls, field, load) for field in dataclasses.fields(cls)} for cls, load in classes
    }


def _describe(cls: type, field: dataclasses.Field[Any], load: Callable[..., Any]) -> dict[str, Any]:
    default: Any = field.default
    kind, choices = _kind(typing.get_type_hints(cls)[field.name])
    found = {
        "env": field.metadata["env"],
        "also": field.metadata.get("also") or None,
        "flag": field.metadata["flag"],
        "type": kind,
        "default": str(default) if isinstance(default, Path) else default,
        "default_on_loopback": _on_loopback(field, load),
        "in_repr": None if field.repr else False,
        "choices": choices or None,
    }

    def accepts(value: Any) -> bool:
        try:
            load({}, **{field.name: value})
        except InvalidConfig:
            return False
        return True

    if kind == "int":
        found |= {"min": _lowest(accepts, default), "max": _highest(accepts, default, _LARGEST)}
    elif kind == "str" and not choices:
        shortest = next((length for length in range(1, _LARGEST_MINIMUM + 1) if accepts("a" * length)), None)
        if shortest is not None:
            longest = _highest(lambda length: accepts("a" * length), shortest, _LONGEST)
            if shortest > 1 or longest is not None:
                found |= {"min_length": shortest, "max_length": longest}
    return {key: value for key, value in found.items() if value is not None or key in ("default", "flag")}


def _kind(hint: Any) -> tuple[str, list[str]]:
    """The name of a type, without ``None``, and the values that a `Literal` lists."""
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return "str", sorted(members)
    if members:
        return _kind(members[0])
    return str(hint.__name__), []


def _on_loopback(field: dataclasses.Field[Any], load: Callable[..., Any]) -> bool | None:
    """What a setting without a default becomes if only this machine reaches the app; elsewhere it is the opposite."""
    if field.default is not None:
        return None
    here, elsewhere = (getattr(load({}, host=host), field.name) for host in ("127.0.0.1", "0.0.0.0"))
    assert here is not elsewhere
    return bool(here)


def _lowest(accepts: Callable[[int], bool], default: int) -> int | None:
    highest = _highest(lambda value: accepts(-value), -default, _LARGEST)
    return None if highest is None else -highest


def _highest(accepts: Callable[[int], bool], good: int, limit: int) -> int | None:
    """The largest accepted number from ``good`` on, all below it being accepted; None: more than ``limit``."""
    if accepts(limit):
        return None
    bad = limit
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if accepts(middle) else (good, middle)
    return good
