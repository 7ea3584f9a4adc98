"""What a search found, as a prompt and a notebook show it."""

from __future__ import annotations

from typing import Any

import pytest

from pygrid.client.network import NetworkClient
from pygrid.client.search import SearchResults
from pygrid.errors import InvalidInput
from pygrid.messages.discovery import DatasetHit, DomainRef, FoundColumn, Missing, SearchAnswer
from pygrid.transport import HttpTransport

REF = DomainRef("hospital-a", "online", "http://127.0.0.1:1", "ed25519:" + "a" * 52)


def hit(**fields: Any) -> DatasetHit:
    plain: dict[str, Any] = {
        "id": 3,
        "name": "people",
        "description": "of two towns",
        "tags": ("census",),
        "version": 1,
        "num_records": 1234,
        "num_columns": 1,
        "columns": (FoundColumn("age", "int32"),),
        "updated_at": None,
        "domain": REF,
    }
    return DatasetHit(**{**plain, **fields})


def results(*hits: DatasetHit, missing: tuple[Missing, ...] = (), more: bool = False) -> SearchResults:
    answer = SearchAnswer(datasets=hits, models=(), processes=(), missing=missing, num_domains=3, more=more)
    return SearchResults(NetworkClient(HttpTransport("http://127.0.0.1:1")).open_domain, answer)


def test_a_prompt_shows_tables_and_who_is_missing() -> None:
    found = results(
        hit(), missing=(Missing("slow", "timeout"), Missing("gone", "offline"), Missing("odd", "error")), more=True
    )
    assert repr(found).splitlines() == [
        "dataset  domain      description   tags    records  columns",
        "people   hospital-a  of two towns  census    1,234  age",
        "",
        "slow did not answer in time",
        "gone is offline",
        "odd sent an answer that is not valid",
        "there are more hits than shown: narrow the search",
    ]
    assert (len(found), bool(found)) == (1, True)
    assert repr(found.datasets[0]) == "FoundDataset('people', domain='hospital-a')"


def test_nothing_found_is_said() -> None:
    found = results(missing=(Missing("gone", "offline"),))
    assert not found
    assert repr(found) == "no hits on 2 of 3 Domains\ngone is offline"


def test_a_notebook_shows_what_strangers_say_as_text() -> None:
    shown = results(hit(name="<script>", tags=("<b>",)), missing=(Missing("<i>", "error"),))._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b>" not in shown
    assert "<i>" not in shown


def test_a_terminal_obeys_nothing_of_it() -> None:
    shown = repr(results(hit(name="a\x1b[31mb", description="one\ntwo \u202e" + "x" * 100)))
    assert shown.isprintable() is False  # line breaks
    assert all(line.isprintable() for line in shown.splitlines())
    assert shown.splitlines()[2:] == ["not shown: description"]


def test_data_of_a_node_of_2020_can_not_be_opened() -> None:
    with pytest.raises(InvalidInput) as caught:
        results(hit(id=0)).datasets[0].open()
    assert caught.value.code == "legacy_node"
