"""Server-Sent Events, however the network cuts the stream into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.client.events import ReceivedEvent, parse_events
from pygrid.errors import PygridError

STREAM = (
    "\ufeff: a comment\n\n"
    "id: 1\nevent: cycle_opened\ndata: {\"a\": 1}\n\n"
    "data: two\ndata:  lines ü\n\n"
    "event: without data\n\n"
    "id\ndata\n\n"
    "retry: 100\nid: 7\ndata: x:y\n\n"
    "data: cut off"
)  # fmt: skip
EVENTS = [
    ReceivedEvent("", "", " a comment"),
    ReceivedEvent("1", "cycle_opened", '{"a": 1}'),
    ReceivedEvent("1", "message", "two\n lines ü"),
    ReceivedEvent("", "message", ""),
    ReceivedEvent("7", "message", "x:y"),
]


@given(cuts=st.lists(st.integers(0, 200)), ending=st.sampled_from(["\n", "\r\n", "\r"]))
def test_pieces_do_not_matter(cuts: list[int], ending: str) -> None:
    data = STREAM.replace("\n", ending).encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(bounds)]
    assert list(parse_events(pieces)) == EVENTS


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    def stream():
        yield b"data: now\n\n"
        raise AssertionError("looked too far ahead")

    assert next(parse_events(stream())).data == "now"


def test_a_line_without_an_end_is_refused() -> None:
    with pytest.raises(PygridError, match="longer than"):
        list(parse_events(b"x" * 100_000 for _ in range(100)))
