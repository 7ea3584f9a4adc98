"""When a request may be sent again, and how long to wait before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import Gone, InvalidInput, PygridError, TooManyRequests, TooSlow, Unavailable
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import connection_failed
from pygrid.transport.retry import RetryPolicy, may_retry


@pytest.mark.parametrize(
    ("error", "if_idempotent", "otherwise"),
    [
        (TooManyRequests("busy"), True, True),
        (Unavailable("starting", retry_after_s=3), True, True),
        (Unavailable("refused", code="connection_failed"), True, True),
        (Unavailable("lost", code="connection_lost"), True, False),
        (Unavailable("proxy", code="gateway_error"), True, False),
        (TooSlow("stalled"), True, False),
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

    def sleep(_seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 5:
            raise StillTrying

    api = Api(server, retries=RetryPolicy(patience_s=1000), first_contact_s=0, sleep=sleep)
    with pytest.raises(Unavailable):
        api.get("/", dict)
    assert waits == 0
    server.is_up = True
    assert api.get("/", dict) == {}
    server.is_up = False
    with pytest.raises(StillTrying):
        api.get("/", dict)
