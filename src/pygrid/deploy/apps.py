"""What the images know of each app: where it listens, and where it keeps its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pygrid import codes
from pygrid.errors import InvalidConfig

App = Literal["domain", "network", "worker"]
APPS: tuple[App, ...] = ("domain", "network", "worker")

DATA_PATH = "/data"
"""The one folder of an image that an app writes to, besides /tmp."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The variables that say where an app listens, the ones that win first; ``default_port`` if none is set."""

    host_variable: str
    port_variables: tuple[str, ...]
    default_port: int

    def port(self, environment: Mapping[str, str]) -> int:
        """The port that an app with these variables listens on.

        Raises:
            InvalidConfig: ``invalid_setting``; it is no number.
        """
        for name in self.port_variables:
            if text := environment.get(name):
                if not text.isdecimal():
                    raise InvalidConfig(
                        f"{name} is {text!r}: use a number from 1 to 65535", code=codes.INVALID_SETTING, setting=name
                    )
                return int(text)
        return self.default_port


LISTENING: Mapping[App, Listening] = {
    "domain": Listening("GRID_NODE_HOST", ("GRID_NODE_PORT", "PORT"), 5000),
    "network": Listening("GRID_NETWORK_HOST", ("GRID_NETWORK_PORT", "PORT"), 7000),
}
"""A Worker listens on nothing."""

HEALTH_PATH = "/readyz"
