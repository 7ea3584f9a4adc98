"""The services of the apps: each one that a route looks up is there."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.datastructures import State

from pygrid.domain import build_domain
from pygrid.network import build_network
from pygrid.settings import load_network_settings, load_settings
from pygrid.web import auth, health, idempotency, identity, sessions
from pygrid.web.services import Services, service


def _route_modules(app: Litestar) -> set[str]:
    """Names of the modules of the mounted handlers, and of those in `features` and `web` that serve them."""
    shared = {module.__name__ for module in (auth, health, idempotency, identity, sessions)}
    return shared | {
        inspect.unwrap(handler.fn).__module__
        for route in app.routes
        for handler in getattr(route, "route_handlers", None) or [route.route_handler]  # type: ignore[union-attr]
        if inspect.unwrap(handler.fn).__module__.startswith("pygrid.")
    }


def _lookups(module: str) -> Iterator[type]:
    """The classes that a module looks up by `service`."""
    found = sys.modules[module]
    for node in ast.walk(ast.parse(inspect.getsource(found))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "service":
            assert isinstance(node.args[1], ast.Name), f"{module}:{node.lineno} names no class"
            yield getattr(found, node.args[1].id)


@pytest.mark.parametrize("kind", ["domain", "network"])
def test_every_lookup_of_a_route_finds_its_service(kind: str, tmp_path: Path) -> None:
    if kind == "domain":
        app = build_domain(load_settings({}, data_dir=tmp_path))
    else:
        app = build_network(load_network_settings({}, data_dir=tmp_path))
    lookups = {(module, wanted) for module in _route_modules(app) for wanted in _lookups(module)}
    assert len(lookups) > 10
    missing = [f"{module}: {wanted.__name__}" for module, wanted in lookups if app.state.services.find(wanted) is None]
    assert missing == []


def test_a_base_class_of_two_services_finds_neither() -> None:
    class Base: ...

    class First(Base): ...

    class Second(Base): ...

    first = First()
    assert service(State({"services": Services(first)}), Base) is first
    both = State({"services": Services(first, Second())})
    assert service(both, First) is first
    with pytest.raises(LookupError, match="no service Base"):
        service(both, Base)
