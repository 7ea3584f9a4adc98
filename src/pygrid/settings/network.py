"""Settings of a Network, declared as those of a Domain are (`pygrid.settings.domain`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from pygrid.settings.shared import AppSettings, setting

_DATA_DIR = Path("pygrid-network-data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(AppSettings):
    """Settings of a Network. Made by `load_network_settings`, which checks them."""

    app: ClassVar[Literal["network"]] = "network"

    id: str = setting(
        "network",
        env="NODE_ID",
        flag="--id",
        panel="Basics",
        metavar="NAME",
        help="Name of this Network, shown to people and to Domains.",
    )
    host: str = setting(
        "127.0.0.1",
        env="GRID_NETWORK_HOST",
        flag="--host",
        panel="Basics",
        metavar="HOST",
        help="Address to listen on; 0.0.0.0 means all interfaces.",
    )
    port: int = setting(
        7000,
        env="GRID_NETWORK_PORT",
        also="PORT",
        flag="--port",
        more_flags=("-p",),
        panel="Basics",
        min=0,
        max=65_535,
        help="Port to listen on; 0 picks a free one.",
    )
    data_dir: Path = setting(  # noqa: RUF009 - a path does not change
        _DATA_DIR, env="PYGRID_DATA_DIR", flag="--data-dir", panel="Basics", help="Folder for all data of the Network."
    )
    num_replicas: int = setting(
        1,
        env="NUM_REPLICAS",
        also="N_REPLICAS",
        flag="--num-replicas",
        more_flags=("--num_replicas",),
        panel="Network",
        min=1,
        help="Domains that choose-model-host names for a new model, at least 1.",
    )
    legacy_open: bool = setting(
        False,
        env="PYGRID_LEGACY_OPEN",
        flag="--legacy-open",
        panel="Accounts",
        help="Whether nodes join and leave without account or invitation, as in 2020; only on loopback.",
    )
    open_relay: bool = setting(
        None,
        env="PYGRID_OPEN_RELAY",
        flag="--open-relay/--closed-relay",
        panel="Network",
        help="Whether calls of anonymous callers are relayed to Domains; default: only on loopback.",
    )
    allow_private_addresses: bool = setting(
        None,
        env="PYGRID_ALLOW_PRIVATE_ADDRESSES",
        flag="--allow-private-addresses/--public-addresses",
        panel="Network",
        help="Whether a Domain may have a private or local address; default: only on loopback.",
    )
    invitation: str = setting(
        "",
        is_secret=True,
        env="PYGRID_INVITATION",
        panel="Network",
        help="Invitation of 32 to 200 characters that any Domain can use while it is set.",
    )
    address: str = setting(
        "",
        env="ADDRESS",
        flag="--address",
        panel="Network",
        metavar="URL",
        help="Public address, like https://network.example; default: the one that each caller used.",
    )
    heartbeat_s: int = setting(
        10,
        env="PYGRID_HEARTBEAT_S",
        flag="--heartbeat-s",
        panel="Network",
        min=1,
        max=600,
        help="Seconds between two heartbeats of a Domain, 1 to 600.",
    )
    replicated: bool = setting(
        False,
        env="PYGRID_REPLICATED",
        flag="--replicated",
        panel="Network",
        help="Whether several processes may serve this Network; needs PostgreSQL and SECRET_KEY.",
    )

    @property
    def is_replicated(self) -> bool:
        """Whether several processes may serve the app. Then no file in a data folder is needed."""
        return self.replicated
