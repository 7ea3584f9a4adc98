"""When a request may be sent again, and how long to wait before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import Gone, InvalidInput, PygridError, TooManyRequests, TooSlow, Unavailable
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
