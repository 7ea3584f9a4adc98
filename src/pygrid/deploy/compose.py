"""A compose file, as far as pygrid understands it: services, each with an app of pygrid, settings, a port, a place in line.

Whoever has a container engine gives the same file to that. What is about containers only (`IGNORED`) means nothing to
processes; what is in neither list is refused by name, so that nobody believes that it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from pygrid.deploy.apps import APPS, App, app_of
from pygrid.deploy.interpolation import Interpolation
from pygrid.errors import InvalidConfig

UNDERSTOOD = frozenset(
    {"command", "depends_on", "environment", "image", "ports", "profiles", "restart", "stop_grace_period", "volumes"}
)
IGNORED = frozenset(
    {
        *("build", "cap_add", "cap_drop", "container_name", "cpus", "expose", "healthcheck", "hostname", "init", "labels"),
        *("logging", "mem_limit", "networks", "pids_limit", "platform", "privileged", "pull_policy", "read_only"),
        *("security_opt", "shm_size", "stop_signal", "tmpfs", "ulimits", "user"),
    }
)
_TOP_IGNORED = frozenset({"name", "networks", "version", "volumes"})
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")
_PORT = re.compile(r"(?:(?:(\[[0-9a-fA-F:]+\]|[0-9.]+):)?(\d*):)?(\d+)(?:/tcp)?")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_RESTART = re.compile(r"(no|always|unless-stopped|on-failure)(?::(\d+))?")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """``[HOST:][PUBLISHED:]TARGET`` of a service; None: any free one."""

    host: str | None
    published: int | None
    target: int


@dataclass(frozen=True, slots=True)
class Mount:
    """A named volume, or a folder of this machine (``source`` begins with ``.``, ``/`` or ``~``), at a path of the service."""

    source: str
    target: str

    @property
    def is_named(self) -> bool:
        return not self.source.startswith((".", "/", "~"))


@dataclass(frozen=True, slots=True)
class Dependency:
    """A service that comes first, and whether it has to be ready, not only started."""

    name: str
    ready: bool = True
    required: bool = True


@dataclass(frozen=True, slots=True)
class Restart:
    """When a service that ended by itself is started again; ``max_times`` None: as often as it takes."""

    when: Literal["no", "on-failure", "always", "unless-stopped"] = "no"
    max_times: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """One service, its variables filled in. ``app`` is None where its image is none of pygrid's."""

    name: str
    image: str
    app: App | None
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: PublishedPort | None = None
    mounts: tuple[Mount, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    restart: Restart = Restart()
    profiles: frozenset[str] = frozenset()
    stop_grace_s: int = 10


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """The services by name, in the order of the file; which keys were ignored, and which variables had no value."""

    services: Mapping[str, Service]
    ignored: frozenset[str] = frozenset()
    unset: frozenset[str] = frozenset()


def parse_compose(text: str, where: str, variables: Mapping[str, str]) -> ComposeFile:
    """The services of a compose file, with ``variables`` filled in.

    Args:
        where: what to call the file in messages.
    Raises:
        InvalidConfig: ``invalid_compose_file``, ``compose_key_not_understood`` or ``variable_missing``; says where in the file.
    """
    content = _yaml(text, where)
    if not isinstance(content, dict) or not isinstance(content.get("services"), dict) or not content["services"]:
        raise _wrong(where, "has no services; a compose file begins with `services:`")
    for key in content:
        if key != "services" and key not in _TOP_IGNORED and not str(key).startswith("x-"):
            raise _not_understood(where, str(key), known={"services"}, ignored=_TOP_IGNORED)
    interpolation = Interpolation(variables)
    content = interpolation.fill({"services": content["services"]}, "")
    services: dict[str, Service] = {}
    ignored: set[str] = set()
    for name, raw in content["services"].items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _wrong(where, f"names a service {name!r}: use letters, digits, dots, dashes and underscores")
        services[name] = _service(name, raw, where, ignored)
    for service in services.values():
        for dependency in service.depends_on:
            if dependency.name not in services:
                raise _wrong(where, f"lets {service.name} depend on {dependency.name}, which is no service of it")
    return ComposeFile(services, frozenset(ignored), frozenset(interpolation.unset))


def _yaml(text: str, where: str) -> Any:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_doubles(tree, where)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        raise _wrong(where + line, f"is not YAML: {getattr(error, 'problem', None) or error}") from error


def _refuse_doubles(node: Any, where: str) -> None:
    """A key that stands twice would silently hold in its last form."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise _wrong(f"{where} line {key.start_mark.line + 1}", f"has the key {key.value} twice in one place")
            seen.add(key.value)
            _refuse_doubles(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_doubles(value, where)


def _service(name: str, raw: Any, where: str, ignored: set[str]) -> Service:
    here = f"{where}: services.{name}"
    if not isinstance(raw, dict):
        raise _wrong(here, "is no table of settings")
    for key in raw:
        if key in IGNORED:
            ignored.add(key)
        elif key not in UNDERSTOOD and not str(key).startswith("x-"):
            raise _not_understood(where, f"services.{name}.{key}", known=UNDERSTOOD, ignored=IGNORED)
    image = raw.get("image")
    if not isinstance(image, str) or not image:
        raise _wrong(here, f"has no image; pygrid's own are {', '.join('pygrid-' + app for app in APPS)}")
    return Service(
        name=name,
        image=image,
        app=app_of(image),
        command=_words(raw.get("command"), f"{here}.command"),
        environment=_environment(raw.get("environment"), f"{here}.environment"),
        port=_port(raw.get("ports"), f"{here}.ports"),
        mounts=_mounts(raw.get("volumes"), f"{here}.volumes"),
        depends_on=_depends_on(raw.get("depends_on"), f"{here}.depends_on"),
        restart=_restart(raw.get("restart"), f"{here}.restart"),
        profiles=frozenset(_words(raw.get("profiles"), f"{here}.profiles")),
        stop_grace_s=_seconds(raw.get("stop_grace_period"), f"{here}.stop_grace_period"),
    )


def _words(raw: Any, here: str) -> tuple[str, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in raw):
        raise _wrong(here, "is no list of texts, like [--num-workers, '4']")
    return tuple(str(word) for word in raw)


def _environment(raw: Any, here: str) -> dict[str, str]:
    if raw is None:
        return {}
    if isinstance(raw, list):
        pairs = [str(item).partition("=") for item in raw]
        if bare := [name for name, equals, _ in pairs if not equals]:
            raise _wrong(here, f"gives {bare[0]} no value; write {bare[0]}=${{{bare[0]}}} to pass on the one of your shell")
        return {name: value for name, _, value in pairs}
    if not isinstance(raw, dict):
        raise _wrong(here, "is neither a table nor a list of NAME=value")
    for name, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _wrong(f"{here}.{name}", "is no text or number; put it in quotes, e.g. '1'")
    return {str(name): str(value) for name, value in raw.items()}


def _port(raw: Any, here: str) -> PublishedPort | None:
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list) or len(raw) != 1:
        raise _wrong(here, "must be a list of one port: an app of pygrid listens on one")
    match = _PORT.fullmatch(str(raw[0])) if isinstance(raw[0], str | int) else None
    if match is None:
        raise _wrong(here, f"holds {raw[0]!r}; write [HOST:][PUBLISHED:]TARGET, e.g. '127.0.0.1:5000:5000'")
    published, target = int(match[2]) if match[2] else None, int(match[3])
    if not 1 <= target <= _MAX_PORT or (published is not None and published > _MAX_PORT):
        raise _wrong(here, f"holds {raw[0]!r}, but ports go to {_MAX_PORT}")
    return PublishedPort(match[1].strip("[]") if match[1] else None, published or None, target)


def _mounts(raw: Any, here: str) -> tuple[Mount, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise _wrong(here, "is no list")
    mounts = []
    for item in raw:
        parts = item.split(":") if isinstance(item, str) else []
        if not 2 <= len(parts) <= 3 or not parts[0] or not parts[1].startswith("/"):
            raise _wrong(here, f"holds {item!r}; write SOURCE:/PATH or SOURCE:/PATH:ro")
        mounts.append(Mount(parts[0], parts[1].rstrip("/") or "/"))
    return tuple(mounts)


def _depends_on(raw: Any, here: str) -> tuple[Dependency, ...]:
    if raw is None:
        return ()
    if isinstance(raw, list):
        return tuple(Dependency(name, ready=False) for name in _words(raw, here))
    if not isinstance(raw, dict):
        raise _wrong(here, "is neither a list nor a table of services")
    found = []
    for name, terms in raw.items():
        terms = terms if isinstance(terms, dict) else {}
        if unknown := terms.keys() - {"condition", "required", "restart"}:
            raise _wrong(f"{here}.{name}", f"has {sorted(unknown)[0]}; known are condition and required")
        condition = terms.get("condition", "service_started")
        if condition not in ("service_started", "service_healthy"):
            raise _wrong(f"{here}.{name}.condition", f"is {condition!r}; use service_started or service_healthy")
        found.append(Dependency(str(name), condition == "service_healthy", bool(terms.get("required", True))))
    return tuple(found)


def _restart(raw: Any, here: str) -> Restart:
    if raw is None or raw is False:  # `restart: no` without quotes is a falsehood in YAML
        return Restart()
    match = _RESTART.fullmatch(str(raw))
    if match is None or (match[2] and match[1] != "on-failure"):
        raise _wrong(here, f"is {raw!r}; use 'no', always, unless-stopped, on-failure or on-failure:TIMES")
    return Restart(match[1], int(match[2]) if match[2] else None)  # type: ignore[arg-type]


def _seconds(raw: Any, here: str) -> int:
    if raw is None:
        return 10
    match = _DURATION.fullmatch(str(raw))
    if match is None or not any(match.groups()):
        raise _wrong(here, f"is {raw!r}; write a time like 30s or 1m30s")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _wrong(where: str, what: str) -> InvalidConfig:
    return InvalidConfig(f"{where} {what}", code="invalid_compose_file")


def _not_understood(where: str, key: str, known: set[str] | frozenset[str], ignored: frozenset[str]) -> InvalidConfig:
    return InvalidConfig(
        f"{where}: {key} is not understood, so what it asks for would not hold. Take it out, or use a container engine.\n"
        f"  understood: {', '.join(sorted(known))}\n"
        f"  ignored, being about containers only: {', '.join(sorted(ignored))}",
        code="compose_key_not_understood",
        key=key,
    )
