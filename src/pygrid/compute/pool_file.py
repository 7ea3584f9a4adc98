"""Reads `pools.toml`: the pools whose jobs an engine starts.

[[pool]]
name = "hpc"
driver = "slurm"
folder = "/shared/pygrid"
places = 4
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pygrid import codes
from pygrid.core.job_pools import BUILT_IN
from pygrid.errors import InvalidConfig

EngineName = Literal["slurm", "ray", "kubernetes"]

MAX_FILE_BYTES = 64 * 1024
MAX_POOLS = 32

_NAME = re.compile(r"[a-z0-9-]{1,40}")
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")


@dataclass(frozen=True)
class PoolConfig:
    """A pool of `pools.toml`."""

    name: str
    driver: EngineName
    places: int = 1
    """Jobs at once."""
    cpus: int = 1
    """CPUs of a job, which is also its number of threads."""
    memory_mb: int = 4096
    """Memory that the engine grants to a Worker; its job gets 512 MB less."""
    wall_s: int = 3600
    """Time that the engine grants to a Worker; its job gets 60 s less."""
    start_s: int = 600
    """Longest time from the request to the engine until the Worker asks for its job."""
    domain: str = ""
    """Address of the Domain as the machines of the engine reach it. Empty: the address of the Domain."""
    program: str = "pygrid"
    """The program on the machines of the engine."""
    address: str = ""
    """Ray: address of the dashboard. Kubernetes: address of the API server; empty: that of the own cluster."""
    token_file: str = ""
    """Ray, Kubernetes: file with the token of the API. Kubernetes, empty: that of the own service account."""
    ca_file: str = ""
    """Ray, Kubernetes: certificate authorities of the API."""
    folder: str = ""
    """Slurm: folder that this machine and all nodes share, for start tokens and logs."""
    partition: str = ""
    """Slurm."""
    account: str = ""
    """Slurm."""
    namespace: str = ""
    """Kubernetes."""
    image: str = ""
    """Kubernetes: image with pygrid."""


_NUMBERS = {
    "places": (1, 10_000),
    "cpus": (1, 1024),
    "memory_mb": (1024, 16 * 1024**2),
    "wall_s": (120, 30 * 86_400),
    "start_s": (5, 7 * 86_400),
}
_TEXTS: dict[str, tuple[EngineName, ...]] = {
    "domain": get_args(EngineName),
    "program": get_args(EngineName),
    "address": ("ray", "kubernetes"),
    "token_file": ("ray", "kubernetes"),
    "ca_file": ("ray", "kubernetes"),
    "folder": ("slurm",),
    "partition": ("slurm",),
    "account": ("slurm",),
    "namespace": ("kubernetes",),
    "image": ("kubernetes",),
}
_REQUIRED: dict[EngineName, tuple[str, ...]] = {
    "slurm": ("folder",),
    "ray": ("address",),
    "kubernetes": ("namespace", "image"),
}


def read_pools(path: Path) -> tuple[PoolConfig, ...]:
    """Return the pools of a file, in its order. Raises InvalidConfig: ``invalid_pools``, with the line and the key."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _invalid(path, 0, "", f"it cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise _invalid(path, 0, "", f"it is larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        text = raw.decode()
        content = tomllib.loads(text)
    except ValueError as error:
        line = re.search(r"line (\d+)", str(error))
        raise _invalid(path, int(line[1]) if line else 0, "", f"it is not TOML: {error}") from error
    reader = _PoolReader(path, text)
    for key in content:
        if key != "pool":
            raise reader.refuse(None, key, "unknown; write [[pool]] before each pool")
    found = content.get("pool", [])
    if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        raise reader.refuse(None, "pool", "write [[pool]] before each pool, with two brackets")
    if len(found) > MAX_POOLS:
        raise reader.refuse(MAX_POOLS, "pool", f"there are {len(found)} pools; at most {MAX_POOLS} are allowed")
    pools = [reader.read(number, table) for number, table in enumerate(found)]
    for number, pool in enumerate(pools):
        if pool.name in [other.name for other in pools[:number]]:
            raise reader.refuse(number, "name", f"{pool.name!r} names two pools")
    return tuple(pools)


class _PoolReader:
    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def read(self, number: int, table: Mapping[str, Any]) -> PoolConfig:
        """Return one pool. Raises InvalidConfig: ``invalid_pools``."""
        driver = self._driver(number, table)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key == "name":
                values[key] = self._name(number, value)
            elif key in _NUMBERS:
                values[key] = self._number(number, key, value)
            elif driver in _TEXTS.get(key, ()):
                values[key] = self._text(number, key, value)
            elif key != "driver":
                raise self.refuse(number, key, self._why_unknown(key, driver))
        for key in ("name", *_REQUIRED[driver]):
            if not values.get(key):
                raise self.refuse(number, key, f"a pool with the driver {driver!r} needs it")
        return PoolConfig(driver=driver, **values)

    def refuse(self, number: int | None, key: str, why: str) -> InvalidConfig:
        return _invalid(self._path, self._line(number, key), key, why)

    def _driver(self, number: int, table: Mapping[str, Any]) -> EngineName:
        driver = table.get("driver")
        for known in get_args(EngineName):
            if driver == known:
                return known  # type: ignore[no-any-return]
        raise self.refuse(number, "driver", f"{_quote(driver)} is not an engine; use slurm, ray or kubernetes")

    def _name(self, number: int, value: Any) -> str:
        if not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise self.refuse(number, "name", f"{_quote(value)} is not valid; use 1 to 40 of a-z, 0-9 and -")
        if value in (*BUILT_IN, "trials"):
            raise self.refuse(number, "name", f"{value!r} is a pool that always exists; choose another name")
        return value

    def _number(self, number: int, key: str, value: Any) -> int:
        low, high = _NUMBERS[key]
        if not (type(value) is int and low <= value <= high):
            raise self.refuse(number, key, f"{_quote(value)} is not a whole number from {low} to {high}")
        return value

    def _text(self, number: int, key: str, value: Any) -> str:
        if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= 1000):
            raise self.refuse(number, key, f"{_quote(value)} is not a text of 1 to 1,000 printable characters")
        if key == "address" and not _URL.fullmatch(value):
            raise self.refuse(number, key, f"{_quote(value)} is not an address like https://head.example:8265")
        if key == "namespace" and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
            raise self.refuse(number, key, f"{_quote(value)} is not the name of a namespace")
        if key == "folder" and not Path(value).is_absolute():
            raise self.refuse(number, key, f"{_quote(value)} is not an absolute path")
        return value.rstrip("/") if key in ("address", "domain") else value

    def _why_unknown(self, key: str, driver: EngineName) -> str:
        if key == "gpus":
            return "jobs compute on CPUs only; remove it"
        if key in _TEXTS:
            return f"the driver {driver!r} has no such key; it is for {' and '.join(_TEXTS[key])}"
        return f"unknown; the keys are {', '.join(['name', 'driver', *_NUMBERS, *_keys_of(driver)])}"

    def _line(self, number: int | None, key: str) -> int:
        """Return the line of a key of a pool, or of the head of the pool; 0 if it is not found."""
        heads = [line for line, text in enumerate(self._lines, 1) if re.match(r"\s*\[\[\s*pool\s*\]\]", text)]
        start = 1 if number is None else heads[number] if number < len(heads) else 0
        stop = len(self._lines) + 1 if number is None or number + 1 >= len(heads) else heads[number + 1]
        pattern = re.compile(rf"\s*[\[\"']*{re.escape(key)}[\"'\]]*\s*(=|$|\.)")
        found = (line for line in range(max(1, start), stop) if pattern.match(self._lines[line - 1]))
        return next(found, start if number is not None else 0)


def _keys_of(driver: EngineName) -> list[str]:
    return [key for key, drivers in _TEXTS.items() if driver in drivers]


def _quote(value: object) -> str:
    return repr(value)[:80]


def _invalid(path: Path, line: int, key: str, why: str) -> InvalidConfig:
    where = f"{path}, line {line}" if line else str(path)
    return InvalidConfig(
        f"{where}: {f'{key}: ' if key else ''}{why}", code=codes.INVALID_POOLS, line=line or None, key=key or None
    )
