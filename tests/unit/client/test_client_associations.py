"""A Domain's Networks by the SDK, where what is sent is not what HTTP lets one expect."""

from __future__ import annotations

import pytest

from pygrid.client.associations import Associations
from pygrid.errors import Unavailable
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import connection_lost


class LosesAnswers:
    """Loses the connection after each request."""

    url = "http://domain"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def send(self, request: Request) -> Response:
        self.seen.append(f"{request.method} {request.path}")
        raise connection_lost(self.url, "the test says so")

    def close(self) -> None: ...


def test_leaving_is_not_said_twice() -> None:
    """The second time, a Domain would forget that it has left, and join again at its next start."""
    transport = LosesAnswers()
    with pytest.raises(Unavailable) as lost:
        Associations(Api(transport)).leave(3)
    assert lost.value.code == "connection_lost"
    assert transport.seen == ["DELETE /associations/3"]
