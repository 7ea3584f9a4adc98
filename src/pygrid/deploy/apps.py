"""Facts about each app that the images need: where it listens, and where its data is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pygrid import codes
from pygrid.errors import InvalidConfig

App = Literal["domain", "network", "worker"]
APPS: tuple[App, ...] = ("domain", "network", "worker")

DATA_PATH = "/data"
"""The only folder of an image that an app writes to, except /tmp."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The variables for the address of an app, in order of precedence; ``default_port`` if no port is set."""

    host_variable: str
    port_variables: tuple[str, ...]
    default_port: int

    def port(self, environment: Mapping[str, str]) -> int:
        """The port that the app listens on. Raises InvalidConfig: ``invalid_setting``: the value is not a number."""
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
"""A Worker opens no port."""

HEALTH_PATH = "/readyz"
