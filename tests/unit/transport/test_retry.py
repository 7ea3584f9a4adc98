"""When a request may be sent again, and how long to wait before."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import Conflict, Gone, InvalidInput, PygridError, StorageFull, TooManyRequests, TooSlow, Unavailable
from pygrid.messages.media import PROBLEM
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import BytesBody, connection_failed, connection_lost
from pygrid.transport.retry import IN_PROGRESS, RetryPolicy, may_retry


@pytest.mark.parametrize(
    ("error", "if_idempotent", "otherwise"),
    [
        (TooManyRequests("busy"), True, True),
        (Unavailable("starting", retry_after_s=3), True, True),
        (Unavailable("refused", code="connection_failed"), True, True),
        (Unavailable("lost", code="connection_lost"), True, False),
        (Unavailable("proxy", code="gateway_error"), True, False),
        (StorageFull("no room now", retry_after_s=30), True, True),
        (StorageFull("too large for this disk"), False, False),
        (TooSlow("stalled"), True, False),
        (Conflict("done by another try", code=IN_PROGRESS), True, True),
        (Conflict("taken"), False, False),
        (Gone("over"), False, False),
        (InvalidInput("wrong"), False, False),
        (PygridError("broken"), False, False),
    ],
)
def test_what_is_tried_again(error: PygridError, if_idempotent: bool, otherwise: bool) -> None:
    assert may_retry(error, idempotent=True) is if_idempotent
    assert may_retry(error, idempotent=False) is otherwise


@given(failures=st.integers(1, 1000), base=st.floats(0.01, 10), longest=st.floats(0.01, 100))
def test_waits_stay_below_the_bound(failures: int, base: float, longest: float) -> None:
    delay = RetryPolicy(base_s=base, max_delay_s=longest).delay_s(failures, Unavailable("x"))
    assert 0 <= delay <= min(longest, base * 2.0 ** min(failures, 30))


def test_the_server_decides_the_least_wait() -> None:
    assert RetryPolicy(max_delay_s=1).delay_s(1, TooManyRequests("busy", retry_after_s=30)) == 30


class Flaky:
    """A server that answers as long as it is up."""

    url = "http://flaky"

    def __init__(self) -> None:
        self.is_up = False

    def send(self, request: Request) -> Response:
        if not self.is_up:
            raise connection_failed(self.url, "refused")
        return Response(200, {}, [b"{}"], lambda: None)

    def close(self) -> None: ...


class StillTrying(Exception):
    pass


def test_an_address_that_never_answered_is_given_up_sooner() -> None:
    server, waits = Flaky(), 0

    def pause(_seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 5:
            raise StillTrying

    api = Api(server, retries=RetryPolicy(max_elapsed_s=1000), first_contact_s=0, sleep=pause)
    with pytest.raises(Unavailable):
        api.get("/", dict)
    assert waits == 0
    server.is_up = True
    assert api.get("/", dict) == {}
    server.is_up = False
    with pytest.raises(StillTrying):
        api.get("/", dict)


class Losing:
    """A server that does what it is asked, and whose first answers are lost."""

    url = "http://losing"

    def __init__(self, num_lost: int, busy: int = 0) -> None:
        self.requests: list[Request] = []
        self._num_lost = num_lost
        self._num_busy = busy

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        if len(self.requests) <= self._num_lost:
            raise connection_lost(self.url, "reset")
        if len(self.requests) <= self._num_lost + self._num_busy:
            problem = Conflict("busy", code=IN_PROGRESS, retry_after_s=1).to_problem()
            return Response(409, {"content-type": PROBLEM}, [msgspec.json.encode(problem)], lambda: None)
        return Response(200, {}, [b"{}"], lambda: None)

    def close(self) -> None: ...


def test_a_call_that_is_done_once_is_sent_again_under_the_same_key() -> None:
    server = Losing(2, busy=2)
    api = Api(server, sleep=lambda _seconds: None)
    for post in (
        lambda: api.post("/x", dict, json={"a": 1}, once=True),
        lambda: api.send_body("/x", dict, BytesBody(b"a"), headers={"Content-Type": "text/plain"}, once=True),
    ):
        server.requests.clear()
        assert post() == {}
        keys = {request.headers["Idempotency-Key"] for request in server.requests}
        assert (len(server.requests), len(keys)) == (5, 1)
        assert uuid.UUID(keys.pop()).version == 4


def test_each_call_has_a_key_of_its_own() -> None:
    server = Losing(0)
    api = Api(server)
    for _ in range(2):
        api.post("/x", dict, once=True)
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 2


def test_a_call_without_a_key_is_not_sent_again() -> None:
    server = Losing(1)
    with pytest.raises(Unavailable):
        Api(server, sleep=lambda _seconds: None).post("/x", dict)
    assert len(server.requests) == 1
    assert "Idempotency-Key" not in server.requests[0].headers


def test_an_answer_in_the_making_is_waited_for_as_long_as_an_answer() -> None:
    slept: list[float] = []
    now = 0.0

    def pause(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    server = Losing(1, busy=10_000)
    retries = RetryPolicy(max_elapsed_s=5, max_delay_s=2)
    api = Api(server, retries=retries, sleep=pause, now=lambda: now)
    with pytest.raises(Conflict):
        api.post("/x", dict, once=True, timeout_s=100)
    assert 90 < sum(slept) < 120


def test_the_old_name_of_the_limit_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="max_elapsed_s"):
        assert RetryPolicy(patience_s=3) == RetryPolicy(max_elapsed_s=3)
