"""The HTTP proxy of the environment: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``, in any case."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pygrid import codes
from pygrid.errors import InvalidInput


def find_proxy(url: str) -> str | None:
    """The address of the proxy for a URL, with a password if it has a user name; None: there is no proxy.

    Raises:
        InvalidInput: it is not an HTTP proxy (``proxy_unsupported``).
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # here, because it costs 15 ms

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    there = urlsplit(proxy)
    if there.scheme not in ("http", "https") or not there.hostname:
        raise InvalidInput(
            f"the environment names a proxy for {parts.scheme}://{parts.hostname} that is not an HTTP proxy; name one "
            "that is, or the host in NO_PROXY",
            code=codes.PROXY_UNSUPPORTED,
        )
    credentials, at, host = there.netloc.rpartition("@")
    if at and ":" not in credentials:
        credentials += ":"
    return f"{there.scheme}://{credentials}{at}{host}"


def without_credentials(proxy: str) -> str:
    """The address of a proxy without user name and password."""
    there = urlsplit(proxy)
    return f"{there.scheme}://{there.netloc.rpartition('@')[2]}"
