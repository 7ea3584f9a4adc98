"""When to retry, and after which delay."""

from __future__ import annotations

import random
import warnings
from dataclasses import InitVar, dataclass

from pygrid.errors import Conflict, PygridError, StorageFull, TooManyRequests, TooSlow, Unavailable
from pygrid.transport.base import CONNECT_FAILED

IN_PROGRESS = "idempotency_in_progress"
"""Code of the refusal of a call while the server still works on an earlier try."""

_LONGEST_S = 1e9
"""Above each limit on retries; larger numbers of a server may not fit a float."""


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter: the n-th wait is drawn from [0, min(max_delay_s, base_s * 2^n)].

    Full jitter keeps the devices of a restarted Domain from returning all at once.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    base_s: float = 0.25
    max_delay_s: float = 15.0
    max_elapsed_s: float = 60.0
    """Time from the first failure to the last retry; 0: no retries."""
    patience_s: InitVar[float | None] = None
    """Deprecated name of `max_elapsed_s`."""

    def __post_init__(self, patience_s: float | None) -> None:
        if patience_s is not None:
            warnings.warn("RetryPolicy.patience_s is max_elapsed_s since 0.2", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "max_elapsed_s", patience_s)

    def delay_s(self, num_failures: int, error: PygridError) -> float:
        """Seconds to wait after the ``num_failures``-th failure (from 1); at least what the server asks for."""
        drawn = random.uniform(0.0, min(self.max_delay_s, self.base_s * 2.0 ** min(num_failures, 30)))
        asked = error.fields.get("retry_after_s")
        return max(drawn, float(min(asked, _LONGEST_S))) if isinstance(asked, (int, float)) else drawn


NO_RETRIES = RetryPolicy(max_elapsed_s=0.0)


def may_retry(error: PygridError, *, idempotent: bool) -> bool:
    """Whether the same request may be sent again after this error.

    After a refusal (429, 503 or 507 with a problem document) or a connection that failed to open, the server has
    changed nothing, so any request may be repeated. After a lost connection the server may have acted on the request,
    so only an idempotent one may be repeated. A POST with an ``Idempotency-Key`` is idempotent: the server repeats its
    first answer.
    """
    if isinstance(error, Conflict):
        return error.code == IN_PROGRESS
    if isinstance(error, TooManyRequests):
        return True
    if isinstance(error, StorageFull):
        return "retry_after_s" in error.fields
    if isinstance(error, Unavailable):
        return idempotent or error.code == CONNECT_FAILED or "retry_after_s" in error.fields
    return isinstance(error, TooSlow) and idempotent
