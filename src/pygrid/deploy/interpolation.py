"""Variables in a compose file: ``${NAME:-default}`` and its relatives, and the file ``.env`` beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pygrid.errors import InvalidConfig

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env_file(text: str, where: str) -> dict[str, str]:
    """The variables of a ``.env`` file: ``NAME=value`` lines, the value bare or in quotes; ``#`` begins a comment.

    Raises:
        InvalidConfig: ``invalid_env_file``; names the line. The value is not repeated, for it may be a secret.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidConfig(f"{where} line {number} is no NAME=value", code="invalid_env_file")
        value = _unquoted(match[2])
        if value is None:
            raise InvalidConfig(f"{where} line {number}: the quotes of {match[1]} do not match", code="invalid_env_file")
        found[match[1]] = value
    return found


def _unquoted(text: str) -> str | None:
    """The value that is written so; None if it is in quotes that do not end."""
    quote = text[:1]
    if quote not in ("'", '"'):
        return re.split(r"\s+#", text, maxsplit=1)[0].strip() if not text.startswith("#") else ""
    value: list[str] = []
    at = 1
    while at < len(text):
        if text[at] == quote:
            rest = text[at + 1 :].strip()
            return "".join(value) if not rest or rest.startswith("#") else None
        if quote == '"' and text[at] == "\\" and at + 1 < len(text):
            at += 1
            value.append(_ESCAPES.get(text[at], text[at]))
        else:
            value.append(text[at])
        at += 1
    return None


class Interpolation:
    """Fills variables in. ``unset`` collects the names that had neither a value nor a default, and became nothing."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.unset: set[str] = set()

    def fill(self, value: Any, where: str) -> Any:
        """``value`` with the variables in all its texts filled in, however deep; keys stay as they are.

        Raises:
            InvalidConfig: ``variable_missing`` if one is needed (``${NAME:?why}``) and not set, with the file's own words;
                ``invalid_compose_file`` if a ``$`` begins nothing that makes sense.
        """
        if isinstance(value, str):
            return self._text(value, where)
        if isinstance(value, dict):
            return {key: self.fill(inner, f"{where}.{key}" if where else str(key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
        return value

    def _text(self, text: str, where: str) -> str:
        parts, at = [], 0
        while (dollar := text.find("$", at)) >= 0:
            parts.append(text[at:dollar])
            if text.startswith("$$", dollar):
                parts.append("$")
                at = dollar + 2
            elif text.startswith("${", dollar):
                end = _closing_brace(text, dollar + 2)
                if end is None:
                    raise _wrong(where, "a ${ without its }")
                parts.append(self._braced(text[dollar + 2 : end], where))
                at = end + 1
            elif match := _NAME.match(text, dollar + 1):
                parts.append(self._value(match[0]))
                at = match.end()
            else:
                raise _wrong(where, "a $ that begins no variable; write $$ for the character itself")
        return "".join([*parts, text[at:]])

    def _braced(self, inside: str, where: str) -> str:
        """What ``${inside}`` stands for."""
        match = _NAME.match(inside)
        if match is None:
            raise _wrong(where, "a ${ that no name follows")
        name, rest = match[0], inside[match.end() :]
        if not rest:
            return self._value(name)
        value = self._variables.get(name)
        # With a colon, an empty value counts as none.
        colon = rest.startswith(":")
        given = bool(value) if colon else value is not None
        operator, word = rest[colon : colon + 1], rest[colon + 1 :]
        if operator == "-":
            return (value or "") if given else self._text(word, where)
        if operator == "+":
            return self._text(word, where) if given else ""
        if operator == "?":
            if not given:
                said = self._text(word, where)
                raise InvalidConfig(
                    f"{where} needs the variable {name}, which is not set{': ' + said if said else ''}",
                    code="variable_missing",
                    variable=name,
                )
            return value or ""
        raise _wrong(where, f"${{{name}{rest[:1]}...}}, which means nothing here; known are :- - :? ? :+ +")

    def _value(self, name: str) -> str:
        value = self._variables.get(name)
        if value is None:
            self.unset.add(name)
            return ""
        return value


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened before ``start`` is closed; defaults may hold braces of their own."""
    depth = 1
    for at in range(start, len(text)):
        if text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
    return None


def _wrong(where: str, what: str) -> InvalidConfig:
    return InvalidConfig(f"{where} holds {what}", code="invalid_compose_file")
