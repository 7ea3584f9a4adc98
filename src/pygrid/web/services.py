"""The services of an app, by their classes."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar, cast

from litestar.datastructures import State

T = TypeVar("T")


class Services:
    """The objects that the handlers of an app use.

    The key of a service is its class, or a base class that no other service has.
    """

    def __init__(self, *instances: object) -> None:
        num_services = Counter(kind for instance in instances for kind in type(instance).__mro__)
        self._by_kind = {
            kind: instance
            for instance in instances
            for kind in type(instance).__mro__
            if num_services[kind] == 1 and kind is not object
        }

    def find(self, kind: type[T]) -> T | None:
        """Return the service of this class, if the app has one."""
        return cast("T | None", self._by_kind.get(kind))


def service(state: State, kind: type[T]) -> T:
    """Return the service of this class. Raises LookupError: the app has none."""
    services: Services = state.services
    found = services.find(kind)
    if found is None:
        raise LookupError(f"the app has no service {kind.__name__}")
    return found
