"""Error codes: declared once, explained, used, and those that were recorded.

Should happen: each code is a constant with statuses and a meaning, and the package uses it.
Should not happen: a code that is written as a text where an error is made; two codes with one meaning.
"""

from __future__ import annotations

import ast
import functools
import inspect
import pickle
from pathlib import Path

import pytest

import pygrid
from pygrid import codes
from pygrid.codes import Code
from support import snapshots

PACKAGE = Path(inspect.getfile(pygrid)).parent
CODES = {name: value for name, value in vars(codes).items() if isinstance(value, Code)}
MIN_CHARS, MAX_CHARS = 20, 160


@functools.cache
def nodes() -> dict[Path, list[ast.AST]]:
    """The attributes, texts and arguments in each module, but not the codes themselves."""
    kinds = (ast.Attribute, ast.Constant, ast.keyword)
    paths = (path for path in PACKAGE.rglob("*.py") if path.name != "codes.py")
    return {path: [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)] for path in paths}


def test_the_codes_are_those_that_were_recorded() -> None:
    recorded = snapshots.read_json("codes.json")
    assert {str(code) for code in CODES.values()} == {*recorded["errors"], *recorded["reasons"]}


def test_the_statuses_are_those_of_the_recorded_classes() -> None:
    for code, classes in snapshots.read_json("codes.json")["errors"].items():
        if classes:
            assert set(CODES[code.upper()].statuses) == set(classes.values()), code


@pytest.mark.parametrize("name", CODES)
def test_a_code_has_the_name_of_its_constant_and_a_meaning_in_one_sentence(name: str) -> None:
    code = CODES[name]
    assert name == code.upper()
    assert MIN_CHARS <= len(code.meaning) <= MAX_CHARS
    assert code.meaning[0].isupper()
    assert code.meaning.endswith(".")
    assert ". " not in code.meaning
    assert all(400 <= status < 600 for status in code.statuses)


def test_no_two_codes_have_one_meaning() -> None:
    meanings = [code.meaning for code in CODES.values()]
    assert len(set(meanings)) == len(meanings)


def test_each_code_is_used() -> None:
    """By its name; a code that is also a value of a `Literal`, an enum or a field of an answer, by its text."""
    used: set[str] = set()
    for found in nodes().values():
        for node in found:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "codes":
                used.add(node.attr.lower())
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
    assert {str(code) for code in CODES.values()} <= used


def test_no_error_is_made_with_a_code_as_text() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.value.lineno} {ast.unparse(node.value)}"
        for path, in_module in nodes().items()
        for node in in_module
        if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    ]
    assert not found


def test_a_code_is_its_text_and_survives_pickling() -> None:
    code = codes.JOB_NOT_FOUND
    again = pickle.loads(pickle.dumps(code))  # noqa: S301
    assert again == "job_not_found"
    assert (again.statuses, again.meaning) == (code.statuses, code.meaning)
