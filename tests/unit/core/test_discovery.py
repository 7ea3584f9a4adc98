"""Queries in their one form, and strangers' answers within bounds."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pygrid
from pygrid.core.discovery import (
    MAX_ANSWER_BYTES,
    MAX_WORDS,
    asks_for,
    check_foreign,
    check_query,
    mentions,
    relevance,
    snippet,
)
from pygrid.errors import InvalidInput
from pygrid.messages.discovery import CatalogAnswer, CatalogSummary, FoundProcess, SearchQuery

PRINTABLE = st.characters(exclude_categories=["C", "Z"])
WORDS = st.lists(st.text(PRINTABLE, min_size=1, max_size=8), max_size=MAX_WORDS)


def refuse(query: SearchQuery, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_query(query)
    assert (caught.value.code, caught.value.fields["field"]) == ("invalid_search", field)


@given(WORDS, st.randoms(use_true_random=False))
def test_queries_that_mean_the_same_are_the_same(words: list[str], chance) -> None:
    shuffled = [chance.choice((word.upper().lower(), word)) for word in words] + words[:1]
    chance.shuffle(shuffled)
    one = check_query(SearchQuery(text=" ".join(words), tags=tuple(words), kinds=("model", "dataset")))
    other = check_query(
        SearchQuery(text=" \t\n".join(shuffled), tags=tuple(shuffled), kinds=("dataset", "model", "model"))
    )
    assert one.kinds == other.kinds
    if [word.casefold() for word in words] == [word.upper().lower().casefold() for word in words]:
        assert one == other
    assert check_query(one) == one


def test_a_query_keeps_what_it_asks() -> None:
    query = check_query(
        SearchQuery(text="Age  INCOME age", tags=(" MRI ",), column=" Age", dtype="int32", meaning="Years")
    )
    assert query == SearchQuery(text="age income", tags=("mri",), column="age", dtype="int32", meaning="years")
    assert check_query(SearchQuery(model="Digits")).model == "Digits"


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x9b", "\u202e", "\u200b", "\ufeff"])
def test_what_is_not_printable_is_refused(character: str) -> None:
    refuse(SearchQuery(text=f"a{character}b"), "text")
    refuse(SearchQuery(tags=(f"a{character}b",)), "tags")
    refuse(SearchQuery(column=f"a{character}b"), "column")
    refuse(SearchQuery(meaning=f"a{character}b"), "meaning")
    refuse(SearchQuery(model=f"a{character}b"), "model")


def test_too_much_is_refused() -> None:
    check_query(SearchQuery(text=" ".join(map(str, range(MAX_WORDS)))))
    refuse(SearchQuery(text=" ".join(map(str, range(MAX_WORDS + 1)))), "text")
    refuse(SearchQuery(tags=(" ",)), "tags")
    for raw in (
        {"text": "x" * 1001},
        {"tags": ["x"] * 21},
        {"tags": [""]},
        {"dtype": "object"},
        {"kinds": ["user"]},
        {"x": 1},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(raw, SearchQuery)


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        (SearchQuery(), {"dataset", "model", "process"}),
        (SearchQuery(text="x"), {"dataset", "model", "process"}),
        (SearchQuery(tags=("x",)), {"dataset"}),
        (SearchQuery(column="x"), {"dataset"}),
        (SearchQuery(dtype="bool"), {"dataset"}),
        (SearchQuery(meaning="x"), {"dataset"}),
        (SearchQuery(model="x"), {"model"}),
        (SearchQuery(model="x", tags=("x",)), set()),
        (SearchQuery(kinds=("process",)), {"process"}),
        (SearchQuery(kinds=("process",), tags=("x",)), set()),
    ],
)
def test_which_kinds_can_fit(query: SearchQuery, kinds: set[str]) -> None:
    assert {kind for kind in ("dataset", "model", "process") if asks_for(query, kind)} == kinds  # type: ignore[arg-type]


def test_words_are_parts_of_what_is_said() -> None:
    assert mentions(("Brain Scans", "of 2024"), ["scan", "2024"])
    assert not mentions(("Brain Scans",), ["scan", "mri"])
    assert mentions((), [])
    # A stranger's pattern is text: nothing here is a regular expression.
    assert not mentions(("aaaa",), ["a.*"])


def test_what_fits_best_comes_first() -> None:
    words = ["brain", "scans"]
    ordered = [
        ("Brain Scans", ()),
        ("brain scans of 2024", ()),
        ("mri", ("brain", "scans")),
        ("brainscans", ()),
        ("other", ()),
    ]
    scores = [relevance(words, name, tags) for name, tags in ordered]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


@given(st.text(max_size=30), st.integers(1, 20))
def test_a_snippet_is_a_beginning(text: str, length: int) -> None:
    short = snippet(text, length)
    assert len(short) <= length
    assert short == text or (len(text) > length and text.startswith(short[:-1]))


def process(name: str) -> FoundProcess:
    return FoundProcess(name=name, version="1", state="active", num_parameters=1, created_at=dt.datetime.now(dt.UTC))


def test_strangers_answers_are_bounded() -> None:
    answer = CatalogAnswer("v", processes=(process("Fälle \\b \\u0000 \n\t日本"),))
    assert check_foreign(answer) == len(msgspec.json.encode(answer))
    full = CatalogSummary("v", tags=("x" * 50,) * 2000, models=("y" * 100,) * 2000)
    assert len(msgspec.json.encode(full)) > MAX_ANSWER_BYTES
    for bad in (full, *(CatalogAnswer("v", processes=(process(f"a{c}"),)) for c in "\0\x1b\r\b\f\x7f\x9b\u202e\u2028")):
        with pytest.raises(InvalidInput) as caught:
            check_foreign(bad)
        assert caught.value.code == "invalid_answer"


def test_the_frames_of_the_documentation_are_such() -> None:
    text = (Path(pygrid.__file__).parents[2] / "docs/how-to/search.md").read_text()
    (block,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    frames = [msgspec.json.decode(line) for line in block.splitlines()]
    assert [(frame.pop("type"), frame.pop("id")) for frame in frames] == [
        ("search", 7),
        ("answer", 7),
        ("summary", 8),
        ("answer", 8),
    ]
    assert check_query(msgspec.convert(frames[0], SearchQuery)).text == "age income"
    check_foreign(msgspec.convert(frames[1], CatalogAnswer))
    assert frames[2] == {}
    check_foreign(msgspec.convert(frames[3], CatalogSummary))
