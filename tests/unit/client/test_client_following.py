"""Following a process whose Domain answers in unusual ways."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from test_training_view import T0
from test_training_view import process as some_process

from pygrid.client import Process
from pygrid.client.events import FollowTimings
from pygrid.errors import Unavailable
from pygrid.messages.processes import Event, ProcessInfo
from pygrid.transport import Api, Request, Response
from pygrid.transport.base import connection_lost

OPEN, ALIVE = b": open\n\n", b": still here\n\n"


def event(number: int, kind: str = "cycle_opened") -> bytes:
    data = msgspec.json.encode(Event(number, "cycle_opened", T0, 1, {}))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, kind.encode(), data.replace(b"cycle_opened", kind.encode()))


class Scripted:
    """Answers requests for events with one prepared stream after the other; ``None`` in a stream is a lost
    connection.
    """

    url = "http://scripted"

    def __init__(self, state: str, *streams: list[bytes | None]) -> None:
        self.info: ProcessInfo = msgspec.structs.replace(some_process(None), state=state)
        self.streams = list(streams)
        self.last_ids: list[str] = []

    def send(self, request: Request) -> Response:
        if not request.path.endswith("/events"):
            return Response(200, {}, [msgspec.json.encode(self.info)], lambda: None)
        self.last_ids.append(request.headers["Last-Event-ID"])
        return Response(200, {}, self._chunks(self.streams.pop(0)), lambda: None)

    def _chunks(self, stream: list[bytes | None]) -> Iterator[bytes]:
        for chunk in stream:
            if chunk is None:
                raise connection_lost(self.url, "the script says so")
            yield chunk

    def close(self) -> None: ...


class Quick(Process):
    timings = FollowTimings(poll_s=0.0)


class Impatient(Process):
    timings = FollowTimings(patience_s=0.0, poll_s=0.0)


def follow(server: Scripted, after: int = 0, kind: type[Process] = Quick) -> list[int]:
    return [event.id for event in kind(Api(server), server.info).events(after)]


def test_a_finished_process_with_nothing_left_to_tell_ends_the_stream() -> None:
    assert follow(Scripted("finished", [OPEN, ALIVE, event(9)]), after=8) == []


def test_an_active_process_may_be_silent_for_long() -> None:
    server = Scripted("active", [OPEN, ALIVE, ALIVE, ALIVE, event(1), ALIVE, event(2, "process_finished"), event(3)])
    assert follow(server) == [1, 2]


def test_a_lost_stream_is_taken_up_where_it_broke_off() -> None:
    server = Scripted("finished", [OPEN, event(1), None], [None], [OPEN, event(2), event(3, "process_finished")])
    assert follow(server) == [1, 2, 3]
    assert server.last_ids == ["0", "1", "1"]


def test_a_stream_that_the_domain_ends_is_taken_up_until_training_is_over() -> None:
    server = Scripted("active", [OPEN, event(1)], [OPEN, event(2, "process_finished")])
    assert follow(server) == [1, 2]
    assert follow(Scripted("finished", [OPEN, event(1)])) == [1]


def test_kinds_that_this_version_does_not_know_are_passed_over() -> None:
    assert follow(Scripted("finished", [OPEN, event(1, "something_new"), event(2)])) == [2]


def test_patience_has_an_end() -> None:
    with pytest.raises(Unavailable):
        follow(Scripted("active", [OPEN, None], [OPEN, None]), kind=Impatient)
