"""Lists of a server that are loaded by a call."""

from __future__ import annotations

from typing import Any

from pygrid.client.display.tables import Table, html_or_error
from pygrid.transport import Api


class Listing:
    """A list of a server, which a call loads. A notebook shows it as a table."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __call__(self) -> Table[Any]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self._api.url!r})"

    def _repr_html_(self) -> str:
        return html_or_error(self, lambda: self().html())
