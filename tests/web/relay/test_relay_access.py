"""Who is let through a relay, and what a refusal says.

Should happen: sessions, tickets, or anybody where the relay is open; each refusal is a problem document before the
upgrade, and
    in the SDK the error that it names; the Domain learns nothing of who was refused.
Should not: a token used twice, after its time, or guessed; a ticket of a stranger; more pipes than there may be; a
Domain's own
    token shown to the Network.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpcore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_relay_calls import read
from test_relay_protocol import open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pygrid.errors import (
    Conflict,
    Gone,
    IdentityChanged,
    InvalidCredentials,
    NotFound,
    PygridError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from pygrid.features.relay.domain import PipeServer
from pygrid.features.relay.network.pipes import RelayLimits
from pygrid.transport import NO_RETRIES, Api, Request, RetryPolicy
from pygrid.transport.certificates import server_context
from pygrid.transport.identity import Identity
from pygrid.transport.tickets import make_ticket
from support.eventually import eventually_blocking
from support.relay_app import RelayedApp
from support.relay_site import Member, RelaySite, running_site
from support.thorough import examples

SMALL = Request("GET", "/small/1")


@pytest.fixture
def app() -> RelayedApp:
    return RelayedApp()


@pytest.fixture
def site(app: RelayedApp, tmp_path: Path) -> Iterator[RelaySite]:
    with running_site(app, tmp_path, limits=RelayLimits(open_s=0.5)) as site:
        yield site


@pytest.fixture
def closed_site(app: RelayedApp, tmp_path: Path) -> Iterator[RelaySite]:
    with running_site(app, tmp_path, is_open=False) as site:
        yield site


def call(site: RelaySite, token: str | None = None, name: str = "hospital-a") -> int:
    """The status of one call, with what the Network is shown."""
    transport = site.open(name, token=lambda network_url: token)
    try:
        with transport.send(SMALL) as response:
            return response.status
    finally:
        transport.close()


def refusal(site: RelaySite, path: str, **headers: str) -> dict[str, Any]:
    """The problem document that answers the request for a WebSocket."""
    with pytest.raises(InvalidStatus) as refused:
        connect(site.network_url.replace("http", "ws") + path, additional_headers=headers)
    response = refused.value.response
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.body)
    assert problem["status"] == response.status_code
    assert problem["detail"]
    return problem


def test_an_open_relay_lets_anybody_through(site: RelaySite) -> None:
    assert call(site) == 200
    # A session that is over, still in somebody's file, does not shut them out of what is open.
    assert call(site, "over") == 200


def test_a_closed_one_asks_for_a_session_of_the_network(closed_site: RelaySite, app: RelayedApp) -> None:
    with pytest.raises(Unauthenticated) as refused:
        call(closed_site)
    assert refused.value.code == "network_login_needed"
    assert "pygrid login" in refused.value.detail
    with pytest.raises(Unauthenticated) as over:
        call(closed_site, "guessed")
    assert over.value.code == "network_session_over"
    assert closed_site.asked == []
    assert call(closed_site, "good") == 200


def test_a_ticket_of_a_member_opens_a_closed_one(closed_site: RelaySite) -> None:
    member, stranger = Identity.make(), Identity.make()
    closed_site.directory.identities["hospital-b"] = member.key
    network = closed_site.network_identity

    def ticket(identity: Identity, name: str, target: str = "hospital-a", age_s: float = 0.0) -> str:
        now = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s)
        return make_ticket(identity, network, name, target, now)

    assert call(closed_site, ticket(member, "hospital-b")) == 200
    asked = len(closed_site.asked)
    wrong = {
        "of a stranger who takes a member's name": ticket(stranger, "hospital-b"),
        "of a Domain that is no member": ticket(stranger, "hospital-c"),
        "of a member, to another Domain": ticket(member, "hospital-b", "hospital-c"),
        "that is over": ticket(member, "hospital-b", age_s=61),
        "for another Network": make_ticket(member, stranger.key, "hospital-b", "hospital-a", dt.datetime.now(dt.UTC)),
        "that is none": "ticket.AAAA",
    }
    for what, text in wrong.items():
        with pytest.raises(Unauthenticated) as refused:
            call(closed_site, text)
        assert refused.value.code == "invalid_ticket", what
    assert len(closed_site.asked) == asked


def test_a_wrong_ticket_opens_nothing_even_where_all_is_open(site: RelaySite) -> None:
    with pytest.raises(Unauthenticated) as refused:
        call(site, "ticket.AAAA")
    assert refused.value.code == "invalid_ticket"


def test_each_refusal_comes_before_the_upgrade(site: RelaySite) -> None:
    site.directory.identities["asleep"] = Identity.make().key
    assert refusal(site, "/relay/nobody")["code"] == "domain_not_found"
    offline = refusal(site, "/relay/asleep")
    assert (offline["status"], offline["code"], offline["retry_after_s"]) == (503, "domain_offline", 1.0)
    assert refusal(site, "/relay/hospital-a", Authorization="Bearer ticket.x")["status"] == 401
    assert refusal(site, "/pipes/" + "A" * 43)["code"] == "invalid_pipe_token"


def test_a_page_in_a_browser_is_not_let_in(site: RelaySite) -> None:
    """Not even where all is open: who looks at the page may be the only one that reaches this Network."""
    for path in ("/relay/hospital-a", "/pipes/" + "A" * 43):
        refused = refusal(site, path, Origin="https://page.example")
        assert (refused["status"], refused["code"]) == (403, "cross_site_refused")
        own = refusal(site, path, Origin=site.network_url)
        assert (own["status"], own["code"]) == (403, "browsers_not_let_in")
    assert site.asked == []


def test_the_sdk_tells_them_as_errors(site: RelaySite) -> None:
    site.directory.identities["asleep"] = Identity.make().key
    with pytest.raises(NotFound) as unknown:
        Api(site.open_by_url(site.address("nobody")), retries=NO_RETRIES).get("/small/1", dict)
    assert (unknown.value.code, unknown.value.fields["network"]) == ("domain_not_found", site.network_url)
    with pytest.raises(Unavailable) as offline:
        call(site, name="asleep")
    assert offline.value.code == "domain_offline"


def test_a_domain_that_comes_back_is_waited_for(site: RelaySite) -> None:
    member = site.directory.members.pop("hospital-a")
    threading.Timer(0.3, lambda: site.directory.members.update({"hospital-a": member})).start()
    api = Api(site.open(), retries=RetryPolicy(base_s=0.01, max_delay_s=0.05, max_elapsed_s=20))
    # Not idempotent, and yet repeated: a refusal by the Network means that the Domain has seen nothing.
    assert api.post("/small/1", dict) == {"path": "/small/1"}
    api.close()


def test_what_is_no_relay_is_told(site: RelaySite) -> None:
    address = f"grid+{site.network_url}/hospital-a"
    transport = site.open_by_url(address)
    transport._backend._address = type(transport._backend._address)(site.network_url + "/healthz?", "x")
    with pytest.raises(Unavailable, match="instead of a WebSocket"):
        transport.send(SMALL)


class Asked(Member):
    """A Domain that does something of its own when it is asked for a pipe."""

    def __init__(self, site: RelaySite, act: Callable[[str], Any]) -> None:
        super().__init__(site, site.pipe_servers["hospital-a"])
        self._act = act

    async def request(self, type: str, payload: Any = None, timeout_s: float = 10.0) -> dict[str, Any]:
        await self._act(payload["token"])
        return {}


def test_a_token_is_good_once_and_for_a_short_time(site: RelaySite) -> None:
    tokens: list[str] = []

    async def keep(token: str) -> None:
        tokens.append(token)
        await asyncio.Event().wait()

    site.directory.members["hospital-a"] = Asked(site, keep)
    with pytest.raises(Unavailable) as failed:
        call(site)
    assert failed.value.code == "domain_unreachable"
    assert refusal(site, f"/pipes/{tokens[0]}")["code"] == "invalid_pipe_token"  # over

    site.directory.members["hospital-a"] = Member(site, site.pipe_servers["hospital-a"])
    assert call(site) == 200
    assert refusal(site, f"/pipes/{site.asked[-1]['token']}")["code"] == "invalid_pipe_token"  # used
    assert len({*tokens, *(asked["token"] for asked in site.asked)}) == 2
    assert all(len(base64.urlsafe_b64decode(token + "=")) == 32 for token in tokens)


def test_a_domain_that_only_says_it_dialled_is_found_out(site: RelaySite) -> None:
    async def nothing(token: str) -> None:
        pass

    site.directory.members["hospital-a"] = Asked(site, nothing)
    with pytest.raises(Unavailable) as failed:
        call(site)
    assert failed.value.code == "domain_unreachable"


def test_a_domain_whose_link_breaks_meanwhile_is_told(site: RelaySite) -> None:
    async def breaks(token: str) -> None:
        raise Unavailable("the connection is closed", code="link_closed")

    async def refuses(token: str) -> None:
        raise TooManyRequests("no more", code="too_many_pipes")

    site.directory.members["hospital-a"] = Asked(site, breaks)
    with pytest.raises(Unavailable) as failed:
        call(site)
    assert (failed.value.code, failed.value.fields["retry_after_s"]) == ("domain_unreachable", 1.0)
    site.directory.members["hospital-a"] = Asked(site, refuses)
    with pytest.raises(TooManyRequests):
        call(site)
    assert site.relay.pipes.count("hospital-a") == 0


@pytest.mark.parametrize("limits", [RelayLimits(max_pipes_per_domain=3), RelayLimits(max_pipes_per_address=3)])
def test_there_are_only_so_many_pipes(app: RelayedApp, tmp_path: Path, limits: RelayLimits) -> None:
    with running_site(app, tmp_path, limits=limits) as site, ExitStack() as stack:
        transports = [stack.enter_context(_closing(site)) for _ in range(4)]
        for transport in transports[:3]:
            read(transport, SMALL)
        with pytest.raises(TooManyRequests) as refused:
            transports[3].send(SMALL)
        assert (refused.value.code, refused.value.fields["retry_after_s"]) == ("too_many_pipes", 1.0)
        transports[0].close()
        eventually_blocking(lambda: site.relay.pipes.count("hospital-a") < 3)
        assert transports[3].send(SMALL).status == 200


def test_the_domain_has_a_bound_of_its_own(app: RelayedApp, tmp_path: Path) -> None:
    with running_site(app, tmp_path, max_pipes=2) as site, ExitStack() as stack:
        transports = [stack.enter_context(_closing(site)) for _ in range(3)]
        for transport in transports[:2]:
            read(transport, SMALL)
        with pytest.raises(TooManyRequests) as refused:
            transports[2].send(SMALL)
        assert refused.value.code == "too_many_pipes"


class _closing:
    def __init__(self, site: RelaySite) -> None:
        self.transport = site.open()

    def __enter__(self) -> Any:
        return self.transport

    def __exit__(self, *_: object) -> None:
        self.transport.close()


def test_callers_that_were_refused_leave_nothing_behind(closed_site: RelaySite) -> None:
    for _ in range(300):
        with pytest.raises(Unauthenticated):
            call(closed_site)
    pipes = closed_site.relay.pipes
    assert (pipes.count("hospital-a"), pipes._awaited, pipes._by_caller, pipes._disconnected) == (0, {}, {}, {})


def test_one_who_pretends_to_be_the_domain_gets_nothing(site: RelaySite, app: RelayedApp, tmp_path: Path) -> None:
    """A Network that sends callers to a server of its own, which serves the same app with a key of its own."""
    (tmp_path / "liar").mkdir()
    liar = Identity.load_or_make(tmp_path / "liar" / "identity.pem")
    server = PipeServer(
        server_context(liar, tmp_path / "liar" / "identity.pem"), site.pipe_servers["hospital-a"]._relayed
    )
    honest = site.directory.members["hospital-a"]

    by_first_use = site.open(pinned=False)
    assert by_first_use.send(SMALL).status == 200
    by_first_use.close()
    assert app.calls == ["/small/1"]

    site.directory.members["hospital-a"] = Member(site, server)
    for pinned, code in ((True, "wrong_identity"), (False, "identity_changed")):
        transport = site.open(pinned=pinned)
        with pytest.raises(IdentityChanged) as noticed:
            Api(transport, token="secret-of-the-domain").get("/small/1", dict)
        assert noticed.value.code == code
        assert str(site.identity.key) in noticed.value.detail
        assert str(liar.key) in noticed.value.detail
        transport.close()
    assert app.calls == ["/small/1"]  # the liar, who serves the same app, saw no request
    site.directory.members["hospital-a"] = honest
    assert call(site) == 200


def test_only_the_newest_tls_is_spoken(site: RelaySite) -> None:
    transport = site.open()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    transport._backend._tls = context
    with pytest.raises(Unavailable) as failed:
        transport.send(SMALL)
    assert failed.value.code == "connection_failed"


@pytest.mark.parametrize(
    "error",
    [
        Gone("the cycle is over", code="cycle_closed"),
        Conflict("it was reported", code="already_reported"),
        InvalidCredentials("a wrong password"),
        IdentityChanged("trust me"),
        NotFound("no such model", code="model_not_found"),
    ],
    ids=lambda error: error.code,
)
def test_a_network_can_not_refuse_in_the_name_of_the_domain(site: RelaySite, error: PygridError) -> None:
    async def lies(name: str) -> Any:
        raise error

    site.directory.reach = lies  # type: ignore[method-assign]
    with pytest.raises(Unavailable) as failed:
        call(site)
    assert failed.value.code == "connection_failed"


@given(data=st.lists(st.one_of(st.binary(max_size=300), st.text(max_size=50)), max_size=6), token=st.text(max_size=80))
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_is_sent_to_its_sockets_the_relay_goes_on(
    site: RelaySite, data: list[bytes | str], token: str
) -> None:
    base = site.network_url.replace("http", "ws")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{base}/pipes/{quote(token, safe='')}")
    assert 400 <= refused.value.response.status_code < 500
    # No TLS but anything, which the Domain ends.
    with contextlib.suppress(ConnectionClosed), connect(f"{base}/relay/hospital-a") as caller:
        for piece in data:
            caller.send(piece)
    assert call(site) == 200


def test_raw_bytes_at_the_door_do_no_harm(site: RelaySite) -> None:
    pool = httpcore.ConnectionPool()
    for path in ("/relay/hospital-a", "/pipes/" + secrets.token_urlsafe(32)):
        answer = pool.request("GET", site.network_url + path)  # no WebSocket
        assert 400 <= answer.status < 500
    pool.close()
    assert call(site) == 200
    with pytest.raises(Gone):
        site.relay.pipes.claim("never given out")


@given(data=st.binary(min_size=1, max_size=400))
@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_frames_but_any_bytes_do_no_harm_from_either_end(site: RelaySite, data: bytes) -> None:
    connection = open_websocket(site.network_url, "/relay/hospital-a", "-")
    connection.sendall(data)
    connection.close()

    async def bring_any_bytes(token: str) -> None:
        def bring() -> None:
            end = open_websocket(site.network_url, f"/pipes/{token}", "-")
            with contextlib.suppress(OSError):
                end.sendall(data)
            end.close()

        await asyncio.to_thread(bring)

    honest = site.directory.members["hospital-a"]
    site.directory.members["hospital-a"] = Asked(site, bring_any_bytes)
    with pytest.raises(Unavailable) as failed:
        call(site)
    assert failed.value.code in ("connection_failed", "domain_unreachable")
    site.directory.members["hospital-a"] = honest
    assert call(site) == 200
