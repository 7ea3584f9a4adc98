"""How a setting is declared, and the settings that a Domain and a Network share."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypedDict, TypeVar, Unpack, dataclass_transform, get_args
from urllib.parse import urlsplit

Panel = Literal["Basics", "Accounts", "Network", "Storage", "Jobs", "Inference", "Logging"]
C = TypeVar("C")
PANELS: tuple[Panel, ...] = get_args(Panel)
"""Sections of the help page of an app, in their order."""


class SettingMetadata(TypedDict, total=False):
    """What is known of a setting, in addition to its type, its default, its panel and its help."""

    env: str
    """Its variable; by default `PYGRID_` and the name of the field."""
    flag: str | None
    """Its option; by default `--` and the name of the field. None: it has only the variable, as secrets do."""
    more_flags: tuple[str, ...]
    """Further spellings of the flag."""
    also: str
    """An older name of the variable, which counts where the present one is not set."""
    metavar: str
    """Stands for a text in the help page; other types have `N`, `SECONDS` or `PATH`."""
    min: int
    max: int
    choices: tuple[str, ...]


_ABSENT = {"more_flags": (), "also": "", "metavar": "", "min": None, "max": None, "choices": ()}


def setting(
    default: Any, panel: Panel, help: str, *, is_secret: bool = False, **metadata: Unpack[SettingMetadata]
) -> Any:
    """A field of a class of settings.

    Args:
        is_secret: the value is left out of the repr, and the setting has no flag.
    """
    known = _ABSENT | ({"flag": None} if is_secret else {}) | metadata | {"panel": panel, "help": help}
    return dataclasses.field(default=default, repr=not is_secret, metadata=known)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings_class(cls: type[C]) -> type[C]:
    """A decorator: the class is a frozen dataclass, and each setting knows its variable and its flag."""
    for name, field in vars(cls).items():
        if isinstance(field, dataclasses.Field):
            names = {"env": f"PYGRID_{name.upper()}", "flag": f"--{name.replace('_', '-')}"}
            field.metadata = MappingProxyType({**names, **field.metadata})
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


@settings_class
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
        "Accounts",
        "Secret of 32 or more bytes that signs what the app issues; required off loopback.",
        is_secret=True,
        env="SECRET_KEY",
    )
    setup_code: str = setting(
        "",
        "Accounts",
        "Code of 16 to 200 characters for the first account off loopback; default: a random one.",
        is_secret=True,
    )
    hosts: str = setting(
        "", "Network", "Further host names of the app, for example domain.example,alice; see ADDRESS.", metavar="NAMES"
    )
    database_url: str = setting(
        "",
        "Storage",
        "postgresql://USER:PASSWORD@HOST/NAME or sqlite:///PATH; default: SQLite in the data folder.",
        env="DATABASE_URL",
        metavar="URL",
    )
    database_direct_url: str = setting(
        "",
        "Storage",
        "Address of PostgreSQL past a connection pooler, for signals; default: DATABASE_URL.",
        flag=None,
        metavar="URL",
    )
    open_signup: bool = setting(
        None,
        "Accounts",
        "Whether anybody may create an account (with the role User); default: only on loopback.",
        flag="--open-signup/--closed-signup",
    )
    admin: bool = setting(
        True, "Network", "Whether the app serves its web console below /admin.", flag="--admin/--no-admin"
    )
    admin_insecure: bool = setting(
        False,
        "Network",
        "Whether the web console takes passwords over plain HTTP from other machines; for laboratories only.",
        flag=None,
    )
    oidc_issuer: str = setting(
        "",
        "Accounts",
        "OpenID Connect provider that people sign in with, for example https://login.example.",
        metavar="URL",
    )
    oidc_client_id: str = setting("", "Accounts", "Id of this app at the sign-in provider.", metavar="ID")
    oidc_client_secret: str = setting(
        "", "Accounts", "Secret of this app at the sign-in provider; empty for a public client.", is_secret=True
    )
    oidc_name: str = setting(
        "", "Accounts", "Name of the sign-in provider, shown to people; default: its host.", metavar="NAME"
    )
    oidc_scopes: str = setting(
        "openid email profile",
        "Accounts",
        "Scopes that are requested from the sign-in provider, separated by blanks.",
        metavar="SCOPES",
    )
    oidc_role_claim: str = setting(
        "", "Accounts", "Claim that roles are mapped from, for example groups or realm_access.roles.", metavar="CLAIM"
    )
    oidc_roles: str = setting(
        "", "Accounts", "Roles by value of the claim, for example 'staff=Administrator; guests=User'.", metavar="ROLES"
    )
    oidc_default_role: str = setting(
        "",
        "Accounts",
        "Role of people from the provider without another one; default: they get no account.",
        metavar="ROLE",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        "Logging",
        "Lowest level that is logged: debug, info, warning or error.",
        metavar="LEVEL",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "Logging",
        "Format of the log: text for people, or json (one object per line) for machines.",
        metavar="FORMAT",
        choices=("text", "json"),
    )
    access_log: bool = setting(False, "Logging", "Whether each request is logged; failed requests (5xx) always are.")
    shutdown_s: int = setting(5, "Basics", "Seconds that open requests have to end when the app stops.", min=0)
    drain_s: int = setting(
        0,
        "Basics",
        "Seconds for which the app goes on serving after SIGTERM, while /readyz answers 503.",
        flag=None,
        min=0,
    )
    max_connections: int = setting(
        4096, "Network", "Connections that are open at the same time, 16 to 60000.", min=16, max=60_000
    )
    max_connections_per_address: int = setting(
        512, "Network", "Open connections of one address; 0: no limit. Loopback and trusted proxies are exempt.", min=0
    )
    trusted_proxies: str = setting(
        "",
        "Network",
        "Reverse proxies whose X-Forwarded-For is believed, for example 10.0.0.5,10.1.0.0/16.",
        metavar="ADDRESSES",
    )
    metrics_from: str = setting(
        "127.0.0.0/8,::1", "Network", "Addresses that may read /metrics; default: this machine.", flag=None
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
