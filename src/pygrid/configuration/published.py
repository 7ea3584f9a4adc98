"""Reads a ``server_config`` of 2020, which could have any further fields, and secrets of any length."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from pygrid.configuration.server import Authentication, ServerConfig

MIN_SECRET_BYTES = 32
_PROOFS = {"secret", "pub_key", "endpoint"}
"""Without any of these, all devices may take part."""


class PublishedConfig(msgspec.Struct, frozen=True):
    """A configuration of 2020 as one of today."""

    values: dict[str, Any]
    """The fields of `ServerConfig`; not checked."""
    unused: tuple[str, ...]
    """Names of the fields that were left out."""
    has_short_secret: bool


def read_published_config(
    raw: Mapping[str, Any], *, has_averaging_plan: bool, allows_short_secrets: bool
) -> PublishedConfig:
    """The configuration without the fields that have no effect here.

    Args:
        allows_short_secrets: whether a secret below `MIN_SECRET_BYTES` is padded; else the check of its length refuses
            it later.
    """
    values: dict[str, Any] = {}
    unused: list[str] = []
    for name, value in raw.items():
        is_set = value is not None or _may_be_null(ServerConfig, name)
        has_use = name != "iterative_plan" or has_averaging_plan
        if name in ServerConfig.__struct_fields__ and is_set and has_use:
            values[name] = value
        elif value is not None:
            unused.append(name)
    has_short_secret = False
    if isinstance(written := values.get("authentication"), Mapping):
        fields = Authentication.__struct_fields__
        authentication = {name: value for name, value in written.items() if name in fields and value not in ("", None)}
        if authentication.get("type") != "jwt":
            authentication.pop("type", None)
        unused += [f"authentication.{name}" for name in written.keys() - set(fields)]
        secret = authentication.get("secret")
        if allows_short_secrets and isinstance(secret, str) and len(secret.encode()) < MIN_SECRET_BYTES:
            # HMAC pads its key with zeros to the length of a block, so the signatures stay the same (RFC 2104).
            authentication["secret"] = secret + "\0" * (MIN_SECRET_BYTES - len(secret.encode()))
            has_short_secret = True
        values["authentication"] = authentication if authentication.keys() & _PROOFS else None
    return PublishedConfig(values, tuple(unused), has_short_secret)


def _may_be_null(kind: type, name: str) -> bool:
    hint = typing.get_type_hints(kind).get(name)
    return isinstance(hint, types.UnionType) and types.NoneType in hint.__args__
