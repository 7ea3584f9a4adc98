"""What is copied out of the console: cells of a table file, and code with names that others chose."""

from __future__ import annotations

import ast
import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.ui.snippets import literal
from pygrid.ui.tables import answer_rows


class Row(msgspec.Struct):
    text: str


def cell_of(text: str) -> str:
    """The cell that a file has for a text."""
    answer = answer_rows("csv", "rows", [Row(text)], ("text",))
    (row,) = csv.DictReader(io.StringIO(answer.content.decode(), newline=""))
    return row["text"]


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t=", "\r=", "\n=", " =", "   @", "\uff1d", "\uff0b", "\uff0d", "\uff20"]
)
def test_no_cell_is_a_formula(start: str) -> None:
    assert cell_of(f"{start}cmd|' /C calc'!A0").startswith(("'", "\N{REPLACEMENT CHARACTER}"))


@pytest.mark.parametrize("text", ["patients", " a", "a=b", "'", "1", ""])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert cell_of(text) == text


@given(st.text())
def test_a_name_in_code_is_a_literal(name: str) -> None:
    code = f"domain.datasets[{literal(name)}]"
    (call,) = ast.parse(code).body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Subscript)
    assert ast.literal_eval(call.value.slice) == name
    assert code.isprintable()


def test_usual_names_are_in_double_quotes() -> None:
    assert literal("patients") == '"patients"'
    assert literal('x"]; import os') == "'x\"]; import os'"
