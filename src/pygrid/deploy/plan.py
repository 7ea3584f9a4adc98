"""From a compose file to processes of this machine: which, in which order, with which variables, on which ports.

Nothing is started here and nothing is looked at but the values given, so the whole plan can be shown, and tested, before.
What an image would give, the plan gives: the app's command, a data folder in place of `/data`, the address that was published.
A service that others call by its name is on this machine, so its name becomes that address wherever a URL holds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pygrid.deploy.apps import DATA_PATH, LISTENING, App
from pygrid.deploy.compose import ComposeFile, PublishedPort, Restart, Service
from pygrid.errors import InvalidConfig

LOOPBACK = "127.0.0.1"
"""Where a port is offered for which the file names no address. An engine would take every address of the machine."""
_NOT_IN_COMMAND = ("--host", "--port", "-p", "--port-file", "--data-dir", "--cache-dir")
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|PYTHON\w*|VIRTUAL_ENV|LD_LIBRARY_PATH|SSL_CERT_\w+|(OMP|OPENBLAS|MKL)_\w+"
    r"|COVERAGE_\w+|(?i:(https?|no|all)_proxy)"
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start.

    Attributes:
        arguments: of the command ``pygrid``.
        environment: all of it, but for what `passed_on` lets through.
        port: where it will listen; None: on nothing.
        data_dir: its folder, to be made before it starts.
        wait_for: what has to be ready, or only started (False), before it is started.
    """

    name: str
    app: App
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    host: str
    port: int | None
    data_dir: Path
    wait_for: Mapping[str, bool]
    restart: Restart
    stop_grace_s: int

    @property
    def address(self) -> str | None:
        """What a person on this machine types into a browser."""
        if self.port is None:
            return None
        return f"http://{_authority(self.host, self.port)}"


def _authority(host: str, port: int) -> str:
    """Where an app that listens on ``host`` is reached from this machine, as in a URL."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plan_processes(
    file: ComposeFile,
    chosen: Collection[str],
    profiles: Collection[str],
    *,
    folder: Path,
    data_dir: Path,
    free_port: Callable[[], int],
) -> tuple[Launch, ...]:
    """The processes for the chosen services and what they depend on, in an order in which they can be started.

    Args:
        chosen: names of services; none: every one that is in no profile, or in one of ``profiles``.
        folder: that of the compose file, from where its relative paths are.
        data_dir: each service gets a folder in it.
        free_port: asked for a port wherever the file leaves it open.
    Raises:
        InvalidConfig: the file asks for something that processes of this machine can't give; says what to do instead.
    """
    services = _in_order(file, _selected(file, chosen, profiles), profiles, chosen)
    for service in services:
        _check(service)
    ports = {service.name: _place(service, free_port) for service in services if service.app in LISTENING}
    _refuse_same_ports(ports)
    names = _Names(file, ports)
    started = {service.name for service in services}
    return tuple(_launch(service, ports.get(service.name), started, names, folder, data_dir) for service in services)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What a service gets of the environment that `pygrid up` has: nothing that would set it up, as in a container."""
    return {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name)}


def _selected(file: ComposeFile, chosen: Collection[str], profiles: Collection[str]) -> list[Service]:
    if unknown := [name for name in chosen if name not in file.services]:
        raise InvalidConfig(
            f"there is no service {unknown[0]}; there are {', '.join(file.services)}",
            code="unknown_service",
            service=unknown[0],
        )
    known = {profile for service in file.services.values() for profile in service.profiles}
    if strange := [profile for profile in profiles if profile not in known]:
        raise InvalidConfig(
            f"no service is in a profile {strange[0]}; there are {', '.join(sorted(known)) or 'no profiles'}",
            code="unknown_profile",
            profile=strange[0],
        )
    if chosen:
        return [service for name, service in file.services.items() if name in chosen]
    return [service for service in file.services.values() if not service.profiles or service.profiles & set(profiles)]


def _in_order(
    file: ComposeFile, wanted: Iterable[Service], profiles: Collection[str], chosen: Collection[str]
) -> list[Service]:
    """The wanted services and all that they depend on, each after what it depends on."""
    done: dict[str, Service] = {}
    path: list[str] = []

    def visit(service: Service) -> None:
        if service.name in done:
            return
        if service.name in path:
            circle = " -> ".join([*path[path.index(service.name) :], service.name])
            raise InvalidConfig(f"services wait for each other in a circle: {circle}", code="invalid_compose_file")
        path.append(service.name)
        for dependency in service.depends_on:
            other = file.services[dependency.name]
            active = not other.profiles or other.profiles & set(profiles) or other.name in chosen
            # As an engine does: what is wanted only if it is there anyway is not started for that.
            if dependency.required or active:
                visit(other)
        path.pop()
        done[service.name] = service

    for service in wanted:
        visit(service)
    return list(done.values())


def _check(service: Service) -> None:
    here = f"service {service.name}"
    if service.app is None:
        raise InvalidConfig(
            f"{here} is the image {service.image}, which is none of pygrid's, so no process can stand for it. Start it "
            "yourself, give its address to the services that need it, and choose those by name: pygrid up SERVICE ...",
            code="not_an_app",
            service=service.name,
        )
    for word in service.command:
        if word.partition("=")[0] in _NOT_IN_COMMAND:
            raise InvalidConfig(
                f"{here} has {word} in its command; say it by ports and volumes, which pygrid up and an engine both read",
                code="invalid_compose_file",
            )
    if service.app not in LISTENING and service.port is not None:
        raise InvalidConfig(f"{here} publishes a port, but a Worker listens on none", code="invalid_compose_file")
    for mount in service.mounts:
        if mount.is_named and mount.target != DATA_PATH:
            raise InvalidConfig(
                f"{here} has the volume {mount.source} at {mount.target}; pygrid up knows one for each service, at {DATA_PATH}",
                code="invalid_compose_file",
            )


def _place(service: Service, free_port: Callable[[], int]) -> tuple[str, int, int]:
    """Address and port of the process, and the port that a container would listen on."""
    assert service.app is not None
    inside = LISTENING[service.app].port(service.environment)
    published = service.port or PublishedPort(None, None, inside)
    if published.target != inside:
        raise InvalidConfig(
            f"service {service.name} publishes its port {published.target}, but listens on {inside}; "
            f"set {LISTENING[service.app].port_variables[-1]} to the port that is published",
            code="invalid_compose_file",
        )
    return published.host or LOOPBACK, published.published or free_port(), inside


def _refuse_same_ports(ports: Mapping[str, tuple[str, int, int]]) -> None:
    owners: dict[int, str] = {}
    for name, (_, port, _) in ports.items():
        if port in owners:
            raise InvalidConfig(f"services {owners[port]} and {name} both publish the port {port}", code="invalid_compose_file")
        owners[port] = name


class _Names:
    """Puts the addresses of processes where the file has the names of services."""

    def __init__(self, file: ComposeFile, ports: Mapping[str, tuple[str, int, int]]) -> None:
        self._ports = ports
        # The host of a URL: behind // or the @ of its user, before a port, a path or the end.
        names = "|".join(sorted(map(re.escape, file.services), key=len, reverse=True))
        self._host = re.compile(rf"(?<=//|.@)(?P<name>{names})(?::(?P<port>\d+))?(?=[/?#,\s]|$)")

    def replace(self, text: str, where: str) -> str:
        """``text`` with every service's name that stands as the host of a URL replaced.

        Raises:
            InvalidConfig: the service is not started, or listens on another port.
        """

        def put(match: re.Match[str]) -> str:
            name, port = match["name"], match["port"]
            if name not in self._ports:
                raise InvalidConfig(
                    f"{where} speaks to {name}, which is not started; start it too, or give the address of one that runs",
                    code="service_not_started",
                    service=name,
                )
            host, outside, inside = self._ports[name]
            if port != str(inside):
                raise InvalidConfig(
                    f"{where} speaks to {name}{f':{port}' if port else ''}, but {name} listens on port {inside}",
                    code="invalid_compose_file",
                )
            return _authority(host, outside)

        return self._host.sub(put, text)


def _launch(
    service: Service, place: tuple[str, int, int] | None, started: Collection[str], names: _Names, folder: Path, data_dir: Path
) -> Launch:
    assert service.app is not None
    own = data_dir / service.name
    paths = {DATA_PATH: str(own)}
    for mount in service.mounts:
        if not mount.is_named:
            paths[mount.target] = str((folder / Path(mount.source).expanduser()).resolve())

    def here(text: str, what: str) -> str:
        return _with_paths(names.replace(text, f"service {service.name}: {what}"), paths)

    environment = {name: here(value, name) for name, value in service.environment.items()}
    host, port = LOOPBACK, None
    if place is not None:
        host, port, _ = place
        listening = LISTENING[service.app]
        for name in listening.port_variables:
            environment.pop(name, None)
        environment |= {
            listening.host_variable: host,
            listening.port_variables[0]: str(port),
            "PYGRID_DATA_DIR": paths[DATA_PATH],
        }
    else:
        environment["XDG_CACHE_HOME"] = paths[DATA_PATH]
    return Launch(
        name=service.name,
        app=service.app,
        arguments=(service.app, *(here(word, "its command") for word in service.command)),
        environment=environment,
        host=host,
        port=port,
        data_dir=Path(paths[DATA_PATH]),
        wait_for={other.name: other.ready for other in service.depends_on if other.name in started},
        restart=service.restart,
        stop_grace_s=service.stop_grace_s,
    )


def _with_paths(text: str, paths: Mapping[str, str]) -> str:
    """``text`` with the folders of a container replaced by those of this machine, as in ``sqlite:////data/domain.db``."""
    targets = "|".join(sorted(map(re.escape, paths), key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({targets})(?=[/?#:,;\s]|$)", lambda match: paths[match[1]], text)
