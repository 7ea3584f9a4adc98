"""Checks that the origin of a dataset contains no credentials."""

from __future__ import annotations

import urllib.parse

from pygrid import codes
from pygrid.errors import InvalidConfig
from pygrid.messages.sql_origins import KEPT_OPTIONS, SYSTEMS, SqlOrigin

MAX_DATABASE = 1000
MAX_QUERY = 100_000


def check_origin(origin: SqlOrigin) -> None:
    """Check an origin before it is stored.

    Raises:
        InvalidConfig: ``invalid_sql_source``: the address has a user, a password or an unknown option, or a text is too
            long. The message quotes nothing of the address.
    """
    if len(origin.database) > MAX_DATABASE or not 0 < len(origin.query) <= MAX_QUERY:
        raise _invalid(
            f"an address has at most {MAX_DATABASE:,} characters, and a query 1 to {MAX_QUERY:,}; shorten them"
        )
    system, _, rest = origin.database.partition("://")
    if system not in SYSTEMS or not rest.isprintable():
        raise _invalid(f"origin.database is not an address of {', '.join(SYSTEMS)}")
    address, _, options = rest.partition("?")
    is_secret = "@" in address.partition("/")[0]
    for name, value in urllib.parse.parse_qsl(options, keep_blank_values=True):
        is_secret |= name not in KEPT_OPTIONS or "@" in value
    if is_secret or (options and not urllib.parse.parse_qsl(options)):
        raise _invalid(
            f"origin.database has a user, a password or an option other than {', '.join(KEPT_OPTIONS)}; the Domain "
            "stores no credentials, so leave them out"
        )


def _invalid(why: str) -> InvalidConfig:
    return InvalidConfig(why, code=codes.INVALID_SQL_SOURCE, field="origin")
