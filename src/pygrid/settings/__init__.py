"""Settings of a Domain and of a Network: `declared` and `shared` have their fields, `loading` reads and checks them."""

from pygrid.settings.domain import PUBLISHABLE_COUNTS, DomainSettings
from pygrid.settings.loading import (
    NETWORK_NAME,
    load_network_settings,
    load_settings,
    make_data_dir,
    read_networks,
    with_secret,
)
from pygrid.settings.network import NetworkSettings
from pygrid.settings.shared import PANELS, AppSettings, is_loopback_host, is_loopback_url

__all__ = [
    "NETWORK_NAME",
    "PANELS",
    "PUBLISHABLE_COUNTS",
    "AppSettings",
    "DomainSettings",
    "NetworkSettings",
    "is_loopback_host",
    "is_loopback_url",
    "load_network_settings",
    "load_settings",
    "make_data_dir",
    "read_networks",
    "with_secret",
]
