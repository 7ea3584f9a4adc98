"""Calls through a relay, as they should be: like calls to the Domain itself.

Should happen: bodies of any size pass whole both ways; a slow end slows the other down; an end that goes is noticed by
the
    other; what was cut is healed by a retry where a retry is safe; the Domain tells callers apart.
Should not: bytes pile up anywhere, a call hang on a pipe that is gone.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pygrid.errors import Unavailable
from pygrid.features.relay.network.pipes import RelayLimits
from pygrid.transport import NO_RETRIES, Api, Request, RetryPolicy, Transport
from support.eventually import eventually_blocking
from support.relay_app import BLOCK, PatternBody, RelayedApp
from support.relay_site import RelaySite, running_site

FAST = RetryPolicy(base_s=0.01, max_delay_s=0.05, max_elapsed_s=20.0)
IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""Generous to what sockets, and each part on the way, may hold; far below what would pass if nobody held it back."""


@pytest.fixture
def app() -> RelayedApp:
    return RelayedApp()


@pytest.fixture
def site(app: RelayedApp, tmp_path: Path) -> Iterator[RelaySite]:
    with running_site(app, tmp_path) as site:
        yield site


@pytest.fixture
def transport(site: RelaySite) -> Iterator[Transport]:
    chosen = site.open()
    yield chosen
    chosen.close()


def read(transport: Transport, request: Request) -> bytes:
    with transport.send(request) as response:
        assert response.status == 200
        return response.read(100_000_000)


def settled(count: object) -> int:
    """What a counter says once it has stopped growing."""
    assert callable(count)
    last, since = count(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.02)  # nothing else tells that no more comes
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last


@pytest.mark.parametrize("num_blocks", [0, 1, 3, 500])
def test_bodies_pass_whole_in_both_directions(transport: Transport, num_blocks: int) -> None:
    body = PatternBody(num_blocks)
    echoed = json.loads(read(transport, Request("POST", "/echo", body=body)))
    assert (echoed["size"], echoed["sha256"]) == (body.num_bytes, body.sha256)
    assert hashlib.sha256(read(transport, Request("GET", f"/blocks/{num_blocks}"))).hexdigest() == body.sha256


def test_one_pipe_carries_many_calls(transport: Transport, site: RelaySite) -> None:
    for number in range(50):
        assert json.loads(read(transport, Request("GET", f"/small/{number}"))) == {"path": f"/small/{number}"}
    assert len(site.asked) == 1


def test_a_thousand_calls_at_once_each_get_their_own_answer(transport: Transport, site: RelaySite) -> None:
    def call(number: int) -> bool:
        while True:
            try:
                answer = read(transport, Request("GET", f"/small/{number}"))
            except Unavailable as error:
                # On a busy machine a thread can wait for ten seconds without a connection; it has sent nothing.
                if "connections are busy" not in str(error):
                    raise
            else:
                return bool(json.loads(answer) == {"path": f"/small/{number}"})

    with ThreadPoolExecutor(50) as threads:  # more than there are connections, so that they change hands
        assert all(threads.map(call, range(1000)))
    assert len(site.asked) <= 20


def test_the_domain_sees_an_encrypted_call_and_hearsay_of_the_caller(transport: Transport, app: RelayedApp) -> None:
    read(transport, Request("GET", "/small/1", headers={"Authorization": "Bearer of-the-domain"}))
    scope = app.scopes[0]
    assert scope["client"] == ("relayed:127.0.0.1", 0)
    assert scope["scheme"] == "https"
    assert scope["headers"][b"authorization"] == b"Bearer of-the-domain"


def test_who_does_not_read_holds_the_domain_back(transport: Transport, app: RelayedApp) -> None:
    with transport.send(Request("GET", "/endless")) as response:
        chunks = response.chunks()
        next(chunks)
        assert settled(lambda: app.num_sent) < IN_FLIGHT_BYTES
        before, num_read = app.num_sent, 0
        while num_read < 3 * IN_FLIGHT_BYTES:
            num_read += len(next(chunks))
        assert app.num_sent > before
    assert app.is_gone.wait(60)


def test_a_domain_that_does_not_read_holds_the_caller_back(transport: Transport, app: RelayedApp) -> None:
    body = PatternBody(64 * 16)  # 64 MiB
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(read, transport, Request("POST", "/held", body=body))
        eventually_blocking(lambda: body.num_taken > 0)
        assert settled(lambda: body.num_taken) < IN_FLIGHT_BYTES
        app.released.set()
        assert json.loads(answer.result(60))["sha256"] == body.sha256


def test_events_come_as_they_happen(transport: Transport, app: RelayedApp) -> None:
    with transport.send(Request("GET", "/events", timeout_s=20)) as response:
        assert response.headers["content-type"] == "text/event-stream"
        arrived = b""
        for number, chunk in enumerate(response.chunks()):
            arrived += chunk
            assert arrived.count(b"\n\n") == number + 1  # none waits for the next
            app.released.set()
    assert arrived == b"".join(f"data: {number}\n\n".encode() for number in range(4))


def test_a_long_poll_ends_with_its_answer_or_with_its_caller(transport: Transport, app: RelayedApp) -> None:
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(read, transport, Request("GET", "/poll", timeout_s=20))
        eventually_blocking(lambda: app.calls == ["/poll"])
        app.released.set()
        assert json.loads(answer.result(20)) == {"released": True}
    with pytest.raises(Unavailable) as lost:
        transport.send(Request("GET", "/poll", timeout_s=0.2))
    assert lost.value.code == "connection_lost"
    assert app.is_gone.wait(60)


def test_an_answer_that_closes_the_connection_is_whole_and_the_next_call_opens_another(
    transport: Transport, site: RelaySite
) -> None:
    for number in range(3):
        assert json.loads(read(transport, Request("GET", f"/goodbye/{number}"))) == {"path": f"/goodbye/{number}"}
    assert len(site.asked) == 3
    eventually_blocking(lambda: site.relay.pipes.count("hospital-a") == 0)


def test_a_pipe_that_ended_while_nobody_called_is_not_used_again(transport: Transport, site: RelaySite) -> None:
    read(transport, Request("GET", "/small/1"))
    site.loop.call_soon_threadsafe(site.relay.pipes.disconnect, "hospital-a")
    eventually_blocking(lambda: site.relay.pipes.count("hospital-a") == 0)
    # Not idempotent, so it would not be repeated if it had been sent into the dead pipe.
    assert json.loads(read(transport, Request("POST", "/small/2"))) == {"path": "/small/2"}


def test_a_call_that_is_cut_in_the_middle_says_so_and_a_safe_one_is_repeated(
    transport: Transport, site: RelaySite, app: RelayedApp
) -> None:
    with transport.send(Request("GET", "/endless")) as response:
        chunks = response.chunks()
        next(chunks)
        site.loop.call_soon_threadsafe(site.relay.pipes.disconnect, "hospital-a")
        with pytest.raises(Unavailable) as lost:
            for _ in chunks:
                pass
    assert lost.value.code == "connection_lost"
    api = Api(transport, retries=FAST)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(api.get, "/poll", dict)
        eventually_blocking(lambda: app.calls[-1] == "/poll")
        site.loop.call_soon_threadsafe(site.relay.pipes.disconnect, "hospital-a")
        eventually_blocking(lambda: app.calls.count("/poll") == 2)
        app.released.set()
        assert answer.result(20) == {"released": True}
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(api.post, "/poll", dict)
        eventually_blocking(lambda: app.calls.count("/poll") == 3)
        site.loop.call_soon_threadsafe(site.relay.pipes.disconnect, "hospital-a")
        with pytest.raises(Unavailable) as unsafe:
            answer.result(20)
    assert unsafe.value.code == "connection_lost"


def test_many_callers_at_once_share_nothing(site: RelaySite) -> None:
    def call(number: int) -> str:
        transport = site.open()
        try:
            body = PatternBody(number % 7)
            echoed = json.loads(read(transport, Request("POST", "/echo", {}, {"X-Caller": str(number)}, body)))
            assert echoed["sha256"] == body.sha256
            return str(echoed["headers"]["x-caller"])
        finally:
            transport.close()

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(call, range(120))) == [str(number) for number in range(120)]
    eventually_blocking(lambda: site.relay.pipes.count("hospital-a") == 0)


def test_a_pipe_through_which_nothing_comes_is_closed(app: RelayedApp, tmp_path: Path) -> None:
    with running_site(app, tmp_path, limits=RelayLimits(idle_s=0.3)) as site:
        transport = site.open()
        read(transport, Request("GET", "/small/1"))
        eventually_blocking(lambda: site.relay.pipes.count("hospital-a") == 0)
        read(transport, Request("GET", "/small/2"))
        assert len(site.asked) == 2
        transport.close()


def test_a_stop_of_the_network_ends_calls_that_wait(app: RelayedApp, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        with running_site(app, tmp_path) as site:
            transport = site.open()
            answer = thread.submit(transport.send, Request("GET", "/poll", timeout_s=60))
            eventually_blocking(lambda: app.calls == ["/poll"])
        with pytest.raises(Unavailable) as lost:
            answer.result(20)
        assert lost.value.code == "connection_lost"
        transport.close()


def test_a_network_that_is_not_there_is_told(tmp_path: Path, site: RelaySite) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"grid+http://127.0.0.1:{nobody.getsockname()[1]}/hospital-a"
        with pytest.raises(Unavailable) as failed:
            Api(site.open_by_url(url), retries=NO_RETRIES).get("/small/1", dict)
    assert failed.value.code == "connection_failed"
    assert "the Network http://127.0.0.1" in failed.value.detail


def test_closing_in_the_middle_of_a_download_frees_the_pipe(
    transport: Transport, site: RelaySite, app: RelayedApp
) -> None:
    threads = threading.active_count()
    for _ in range(5):
        with transport.send(Request("GET", "/blocks/2000")) as response:
            assert (BLOCK * 2).startswith(next(response.chunks()))
    eventually_blocking(lambda: site.relay.pipes.count("hospital-a") == 0)
    assert threading.active_count() == threads
