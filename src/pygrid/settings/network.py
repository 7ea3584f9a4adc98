"""Settings of a Network, declared as those of a Domain are (`pygrid.settings.domain`)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pygrid.settings.shared import AppSettings, setting, settings_class

_DATA_DIR = Path("pygrid-network-data")


@settings_class
class NetworkSettings(AppSettings):
    """Settings of a Network. Made by `load_network_settings`, which checks them."""

    app: ClassVar[Literal["network"]] = "network"

    id: str = setting(
        "network", "Basics", "Name of this Network, shown to people and to Domains.", env="NODE_ID", metavar="NAME"
    )
    host: str = setting(
        "127.0.0.1",
        "Basics",
        "Address to listen on; 0.0.0.0 means all interfaces.",
        env="GRID_NETWORK_HOST",
        metavar="HOST",
    )
    port: int = setting(
        7000,
        "Basics",
        "Port to listen on; 0 picks a free one.",
        env="GRID_NETWORK_PORT",
        also="PORT",
        more_flags=("-p",),
        min=0,
        max=65_535,
    )
    data_dir: Path = setting(_DATA_DIR, "Basics", "Folder for all data of the Network.")
    num_replicas: int = setting(
        1,
        "Network",
        "Domains that choose-model-host names for a new model, at least 1.",
        env="NUM_REPLICAS",
        also="N_REPLICAS",
        more_flags=("--num_replicas",),
        min=1,
    )
    legacy_open: bool = setting(
        False, "Accounts", "Whether nodes join and leave without account or invitation, as in 2020; only on loopback."
    )
    open_relay: bool = setting(
        None,
        "Network",
        "Whether calls of anonymous callers are relayed to Domains; default: only on loopback.",
        flag="--open-relay/--closed-relay",
    )
    allow_private_addresses: bool = setting(
        None,
        "Network",
        "Whether a Domain may have a private or local address; default: only on loopback.",
        flag="--allow-private-addresses/--public-addresses",
    )
    invitation: str = setting(
        "", "Network", "Invitation of 32 to 200 characters that any Domain can use while it is set.", is_secret=True
    )
    address: str = setting(
        "",
        "Network",
        "Public address, like https://network.example; default: the one that each caller used.",
        env="ADDRESS",
        metavar="URL",
    )
    heartbeat_s: int = setting(10, "Network", "Seconds between two heartbeats of a Domain, 1 to 600.", min=1, max=600)
    replicated: bool = setting(
        False, "Network", "Whether several processes may serve this Network; needs PostgreSQL and SECRET_KEY."
    )

    @property
    def is_replicated(self) -> bool:
        """Whether several processes may serve the app. Then no file in a data folder is needed."""
        return self.replicated
