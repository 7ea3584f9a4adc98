"""Lists as tables.

Should happen: lines fit the width; ids are as short as they can be; texts are folded between words; the columns of the
least weight go first and are named; a pipe and the title in a notebook have whole values.
Should not happen: a broken word, a character that a terminal obeys, HTML of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pygrid.client.display.tables import Table, TableColumn, html_facts, text_facts
from pygrid.client.workers import Workers
from pygrid.transport import Api, HttpTransport, RetryPolicy
from support.plans.handmade import logistic_plan


@dataclass
class Animal:
    id: str
    name: str
    legs: int = 4
    words: str = ""


class Animals(Table[Animal]):
    def columns(self) -> Sequence[TableColumn[Animal]]:
        return (
            TableColumn("id", lambda item: item.id, weight=3, is_id=True),
            TableColumn("name", lambda item: item.name, weight=4),
            TableColumn("legs", lambda item: f"{item.legs:,}", weight=2, align="right"),
            TableColumn("words", lambda item: item.words or None, min=10),
        )


CAT = Animal("a" * 32, "cat", 4, "sleeps for two thirds of its life and hunts in the rest")
ANT = Animal("b" * 32, "ant", 1006, "works")


def test_a_table_that_fits_is_in_columns_with_short_ids() -> None:
    assert Animals([CAT, ANT]).text(100).splitlines() == [
        "id        name   legs  words",
        "aaaaaaaa  cat       4  sleeps for two thirds of its life and hunts in the rest",
        "bbbbbbbb  ant   1,006  works",
    ]


def test_the_widest_text_is_folded_between_words() -> None:
    assert Animals([CAT, ANT]).text(48).splitlines() == [
        "id        name   legs  words",
        "aaaaaaaa  cat       4  sleeps for two thirds of",
        "                       its life and hunts in the",
        "                       rest",
        "bbbbbbbb  ant   1,006  works",
    ]


def test_the_columns_of_the_least_weight_are_left_out_and_named() -> None:
    assert Animals([CAT, ANT]).text(24).splitlines() == [
        "id        name   legs",
        "aaaaaaaa  cat       4",
        "bbbbbbbb  ant   1,006",
        "not shown: words",
    ]
    assert Animals([CAT]).text(19).splitlines()[2:] == ["not shown: legs,", "words"]


def test_one_column_always_stays_and_its_words_stay_whole() -> None:
    assert Animals([Animal("x", "rhinoceros")]).text(5).splitlines()[:2] == ["name", "rhinoceros"]


def test_ids_that_begin_alike_are_longer_and_the_same_id_may_occur_twice() -> None:
    first, second = Animal("a" * 20 + "1", "x"), Animal("a" * 20 + "2", "y")
    lines = Animals([first, second, first]).text().splitlines()
    assert [line.split()[0] for line in lines[1:]] == [first.id, second.id, first.id]
    # Unique among all items, also among those that are not shown.
    assert Animals([first, second]).text(max_rows=1).splitlines()[1].startswith(first.id)


def test_only_the_first_rows_are_shown_at_a_prompt() -> None:
    lines = repr(Animals([Animal(f"{number:032x}", "ant") for number in range(40)])).splitlines()
    assert (len(lines), lines[-1]) == (32, "and 10 more")
    assert repr(Animals()) == "(none)"


def test_a_terminal_obeys_nothing_and_shows_only_the_beginning_of_long_texts() -> None:
    table = Animals([Animal("1", "a\x1b[31mb\nc", words="\u202e" + "x" * 100 + " word" * 100)])
    text = table.text(500)
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 2
    assert text.endswith("x\N{HORIZONTAL ELLIPSIS}" + " word" * 27 + " \N{HORIZONTAL ELLIPSIS}")


def test_characters_of_two_cells_are_counted_as_two() -> None:
    lines = Animals([Animal("1", "\u732b\u732b\u732b", 4), Animal("2", "ant", 6)]).text().splitlines()
    assert [cell_len(line) for line in lines] == [len("id  name    legs  words"), 16, 16]


def test_a_pipe_gets_whole_values() -> None:
    assert Animals([CAT, Animal("c", "a\tb\nc")]).tsv().split("\n") == [
        "id\tname\tlegs\twords",
        f"{CAT.id}\tcat\t4\t{CAT.words}",
        "c\ta b c\t4\t",
    ]


def test_a_notebook_shows_the_whole_id_as_a_title_and_text_of_others_as_text() -> None:
    shown = Animals([Animal("'" + "a" * 20, "<b>")])._repr_html_()
    assert "<td style='text-align:left' title='&#x27;aaaaaaaaaaaaaaaaaaaa'>&#x27;aaaaaaa</td>" in shown
    assert "<td style='text-align:left'>&lt;b&gt;</td><td style='text-align:right'>4</td>" in shown
    assert "<b>" not in shown


def test_facts_are_names_and_values() -> None:
    facts = [("state", "waiting"), ("the plan", "one line\nand one more \x1b"), ("nothing", None)]
    assert text_facts(facts).splitlines() == [
        "state     waiting",
        "the plan  one line",
        "          and one more \N{REPLACEMENT CHARACTER}",
        "nothing",
    ]
    assert text_facts([("a", "one two three")], 9).splitlines() == ["a  one", "   two", "   three"]
    assert "<td style='text-align:left'>&lt;i&gt;</td>" in html_facts([("a", "<i>")])


def test_objects_show_themselves_or_why_they_can_not() -> None:
    workers = Workers(Api(HttpTransport("http://127.0.0.1:1"), retries=RetryPolicy(max_elapsed_s=0.0)))
    assert repr(workers) == "Workers(url='http://127.0.0.1:1')"
    assert workers._repr_html_().startswith("Workers(url=&#x27;http://127.0.0.1:1&#x27;): ")
    plan = logistic_plan()
    assert f"<td style='text-align:left'>{plan.id}</td>" in plan._repr_html_()
    assert "\n" not in repr(plan)


words = st.text("ab\u732b", min_size=1, max_size=12)
texts = st.lists(words, max_size=8).map(" ".join)


animals = st.builds(Animal, words, words, st.integers(0, 10**6), texts)


@given(st.lists(animals, min_size=1, max_size=5), st.integers(11, 90))
def test_lines_fit_and_no_word_is_broken(items: list[Animal], width: int) -> None:
    body = Animals(items).text(width).partition("\nnot shown:")[0].splitlines()
    if len(body[0].split()) > 1:
        assert max(map(cell_len, body)) <= width
    values = {word for item in items for word in (*item.words.split(), item.name, f"{item.legs:,}")}
    ids = {item.id[:count] for item in items for count in range(8, 13)}
    assert {word for line in body[1:] for word in line.split()} <= values | ids | {item.id for item in items}


@pytest.mark.parametrize("width", [80, 120])
def test_a_wide_table_keeps_its_most_important_columns(width: int) -> None:
    animal = Animal("a" * 32, "name-without-any-space-" + "y" * 40, words="word " * 60)
    lines = Animals([animal]).text(width).splitlines()
    assert max(map(len, lines)) <= width
    assert animal.name in lines[1]
