"""Search of the public content of the Domains of a Network."""

from __future__ import annotations

from litestar import Response, get
from litestar.datastructures import State
from litestar.params import FromQuery

from pygrid.features.discovery.routes import count_search, network_url
from pygrid.messages.discovery import DEFAULT_TIMEOUT_S, MAX_TEXT, SearchQuery
from pygrid.ui.access import signed_in
from pygrid.ui.console import console_of
from pygrid.ui.pages.search import MAX_HITS, Hit, SearchView
from pygrid.web.requests import AppRequest


@get("/search", guards=[signed_in()])
async def search_network(request: AppRequest, state: State, q: FromQuery[str] = "") -> Response[bytes]:
    """Search the public content of all Domains of this Network."""
    text = q[:MAX_TEXT]
    discovery = count_search(request, state)
    answer = await discovery.search(SearchQuery(text=text), DEFAULT_TIMEOUT_S, network_url(request, state))
    hits = [
        *(Hit("dataset", one.name, "", one.description, one.domain.name) for one in answer.datasets),
        *(Hit("model", one.id, "", one.description, one.domain.name) for one in answer.models),
        *(Hit("process", f"{one.name} {one.version}", "", one.state, one.domain.name) for one in answer.processes),
    ]
    view = SearchView(
        text,
        hits[: 3 * MAX_HITS],
        [(one.domain, one.reason) for one in answer.missing],
        answer.num_domains,
        answer.more or len(hits) > 3 * MAX_HITS,
        [],
        f"network.search({text!r})",
    )
    return await console_of(request).page(request, "search.html", "Search", view)
