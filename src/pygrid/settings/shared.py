"""How a setting is declared, and the settings that a Domain and a Network share."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from typing import Any, ClassVar, Literal, Required, TypedDict, Unpack, get_args
from urllib.parse import urlsplit

Panel = Literal["Basics", "Accounts", "Network", "Storage", "Jobs", "Inference", "Logging"]
PANELS: tuple[Panel, ...] = get_args(Panel)
"""Sections of the help page of an app, in their order."""


class SettingMetadata(TypedDict, total=False):
    """What is known of a setting, in addition to its type and its default."""

    env: Required[str]
    help: Required[str]
    panel: Required[Panel]
    flag: str | None
    more_flags: tuple[str, ...]
    """Further spellings of the flag."""
    also: str
    """An older name of the variable, which counts where the present one is not set."""
    metavar: str
    """Stands for a text in the help page; other types have `N`, `SECONDS` or `PATH`."""
    min: int
    max: int
    choices: tuple[str, ...]


def setting(default: Any, *, is_secret: bool = False, **metadata: Unpack[SettingMetadata]) -> Any:
    """A field of a class of settings.

    Args:
        is_secret: the value is left out of the repr.
    """
    absent = {"flag": None, "more_flags": (), "also": "", "metavar": "", "min": None, "max": None, "choices": ()}
    return dataclasses.field(default=default, repr=not is_secret, metadata=absent | metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppSettings:
    """Settings that both apps have. Times are in seconds, sizes in MiB."""

    app: ClassVar[Literal["domain", "network"]]

    id: str
    host: str
    port: int
    data_dir: Path
    legacy_open: bool
    address: str
    secret_key: str = setting(
        "",
        is_secret=True,
        env="SECRET_KEY",
        panel="Accounts",
        help="Secret of 32 or more bytes that signs what the app issues; required off loopback.",
    )
    setup_code: str = setting(
        "",
        is_secret=True,
        env="PYGRID_SETUP_CODE",
        panel="Accounts",
        help="Code of 16 to 200 characters for the first account off loopback; default: a random one.",
    )
    hosts: str = setting(
        "",
        env="PYGRID_HOSTS",
        flag="--hosts",
        panel="Network",
        metavar="NAMES",
        help="Further host names of the app, for example domain.example,alice; see ADDRESS.",
    )
    database_url: str = setting(
        "",
        env="DATABASE_URL",
        flag="--database-url",
        panel="Storage",
        metavar="URL",
        help="postgresql://USER:PASSWORD@HOST/NAME or sqlite:///PATH; default: SQLite in the data folder.",
    )
    database_direct_url: str = setting(
        "",
        env="PYGRID_DATABASE_DIRECT_URL",
        panel="Storage",
        metavar="URL",
        help="Address of PostgreSQL past a connection pooler, for signals; default: DATABASE_URL.",
    )
    open_signup: bool = setting(
        None,
        env="PYGRID_OPEN_SIGNUP",
        flag="--open-signup/--closed-signup",
        panel="Accounts",
        help="Whether anybody may create an account (with the role User); default: only on loopback.",
    )
    admin: bool = setting(
        True,
        env="PYGRID_ADMIN",
        flag="--admin/--no-admin",
        panel="Network",
        help="Whether the app serves its web console below /admin.",
    )
    admin_insecure: bool = setting(
        False,
        env="PYGRID_ADMIN_INSECURE",
        panel="Network",
        help="Whether the web console takes passwords over plain HTTP from other machines; for laboratories only.",
    )
    oidc_issuer: str = setting(
        "",
        env="PYGRID_OIDC_ISSUER",
        flag="--oidc-issuer",
        panel="Accounts",
        metavar="URL",
        help="OpenID Connect provider that people sign in with, for example https://login.example.",
    )
    oidc_client_id: str = setting(
        "",
        env="PYGRID_OIDC_CLIENT_ID",
        flag="--oidc-client-id",
        panel="Accounts",
        metavar="ID",
        help="Id of this app at the sign-in provider.",
    )
    oidc_client_secret: str = setting(
        "",
        is_secret=True,
        env="PYGRID_OIDC_CLIENT_SECRET",
        panel="Accounts",
        help="Secret of this app at the sign-in provider; empty for a public client.",
    )
    oidc_name: str = setting(
        "",
        env="PYGRID_OIDC_NAME",
        flag="--oidc-name",
        panel="Accounts",
        metavar="NAME",
        help="Name of the sign-in provider, shown to people; default: its host.",
    )
    oidc_scopes: str = setting(
        "openid email profile",
        env="PYGRID_OIDC_SCOPES",
        flag="--oidc-scopes",
        panel="Accounts",
        metavar="SCOPES",
        help="Scopes that are requested from the sign-in provider, separated by blanks.",
    )
    oidc_role_claim: str = setting(
        "",
        env="PYGRID_OIDC_ROLE_CLAIM",
        flag="--oidc-role-claim",
        panel="Accounts",
        metavar="CLAIM",
        help="Claim that roles are mapped from, for example groups or realm_access.roles.",
    )
    oidc_roles: str = setting(
        "",
        env="PYGRID_OIDC_ROLES",
        flag="--oidc-roles",
        panel="Accounts",
        metavar="ROLES",
        help="Roles by value of the claim, for example 'staff=Administrator; guests=User'.",
    )
    oidc_default_role: str = setting(
        "",
        env="PYGRID_OIDC_DEFAULT_ROLE",
        flag="--oidc-default-role",
        panel="Accounts",
        metavar="ROLE",
        help="Role of people from the provider without another one; default: they get no account.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        env="PYGRID_LOG_LEVEL",
        flag="--log-level",
        panel="Logging",
        metavar="LEVEL",
        choices=("debug", "info", "warning", "error"),
        help="Lowest level that is logged: debug, info, warning or error.",
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        env="PYGRID_LOG_FORMAT",
        flag="--log-format",
        panel="Logging",
        metavar="FORMAT",
        choices=("text", "json"),
        help="Format of the log: text for people, or json (one object per line) for machines.",
    )
    access_log: bool = setting(
        False,
        env="PYGRID_ACCESS_LOG",
        flag="--access-log",
        panel="Logging",
        help="Whether each request is logged; failed requests (5xx) always are.",
    )
    shutdown_s: int = setting(
        5,
        env="PYGRID_SHUTDOWN_S",
        flag="--shutdown-s",
        panel="Basics",
        min=0,
        help="Seconds that open requests have to end when the app stops.",
    )
    drain_s: int = setting(
        0,
        env="PYGRID_DRAIN_S",
        panel="Basics",
        min=0,
        help="Seconds for which the app goes on serving after SIGTERM, while /readyz answers 503.",
    )
    max_connections: int = setting(
        4096,
        env="PYGRID_MAX_CONNECTIONS",
        flag="--max-connections",
        panel="Network",
        min=16,
        max=60_000,
        help="Connections that are open at the same time, 16 to 60000.",
    )
    max_connections_per_address: int = setting(
        512,
        env="PYGRID_MAX_CONNECTIONS_PER_ADDRESS",
        flag="--max-connections-per-address",
        panel="Network",
        min=0,
        help="Open connections of one address; 0: no limit. Loopback and trusted proxies are exempt.",
    )
    trusted_proxies: str = setting(
        "",
        env="PYGRID_TRUSTED_PROXIES",
        flag="--trusted-proxies",
        panel="Network",
        metavar="ADDRESSES",
        help="Reverse proxies whose X-Forwarded-For is believed, for example 10.0.0.5,10.1.0.0/16.",
    )

    @property
    def is_replicated(self) -> bool:
        """Whether several processes may serve the app. Then no file in a data folder is needed."""
        return False

    @property
    def host_names(self) -> frozenset[str]:
        """The names of the app in lower case. It also answers to IP addresses and loopback names."""
        names = [self.host, urlsplit(self.address).hostname or "", *self.hosts.split(",")]
        return frozenset(plain for name in names if (plain := name.strip().lower().rstrip(".")))

    @property
    def oidc_shown_name(self) -> str:
        """The name of the sign-in provider, as people see it."""
        return self.oidc_name or urlsplit(self.oidc_issuer).hostname or ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the app."""
        return is_loopback_host(self.host)


def is_loopback_url(url: str) -> bool:
    """Whether the address is on this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Whether a host name or an IP address means this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
