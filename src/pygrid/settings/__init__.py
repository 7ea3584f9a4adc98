"""Settings of a Domain and of a Network: `declared` has their fields, `loading` reads and checks them."""

from pygrid.settings.declared import (
    PUBLISHABLE_COUNTS,
    AppSettings,
    DomainSettings,
    NetworkSettings,
    is_loopback_host,
    is_loopback_url,
)
from pygrid.settings.loading import (
    NETWORK_NAME,
    load_network_settings,
    load_settings,
    make_data_dir,
    read_networks,
    with_secret,
)

__all__ = [
    "NETWORK_NAME",
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
