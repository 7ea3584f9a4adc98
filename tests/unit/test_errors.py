"""Errors as problem documents, and back.

Should happen: an error arrives as the class that it was raised as, whatever its code. Should not: a document of
somebody else, or of a later version, breaks its reader.
"""

from __future__ import annotations

from typing import Any

import pytest

from pygrid.errors import (
    Conflict,
    InvalidInput,
    InvalidPlan,
    NotFound,
    PygridError,
    ShapeMismatch,
    Unavailable,
    from_problem,
)


def classes(parent: type[PygridError] = PygridError) -> list[type[PygridError]]:
    return [
        parent,
        *(cls for child in parent.__subclasses__() if child.__module__ == "pygrid.errors" for cls in classes(child)),
    ]


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("code", [None, "one_of_tomorrow"])
def test_an_error_arrives_as_what_it_was(cls: type[PygridError], code: str | None) -> None:
    sent = cls("why", code=code, number=3)
    got = from_problem(sent.to_problem())
    assert (type(got), got.detail, got.code, got.fields) == (cls, "why", sent.code, {"number": 3})


def test_titles_are_of_one_class_each() -> None:
    titles = [cls.title_of() for cls in classes()]
    assert len(set(titles)) == len(titles)
    assert InvalidPlan.title_of() == "Invalid plan"


@pytest.mark.parametrize(
    ("problem", "cls"),
    [
        ({"title": "Not found", "status": 404, "code": "route_not_found"}, NotFound),
        ({"title": "Invalid plan", "status": 409, "code": "odd"}, Conflict),
        ({"title": "Bad request", "status": 400, "code": "shape_mismatch"}, ShapeMismatch),
        ({"title": "I'm a teapot", "status": 400, "code": "teapot"}, InvalidInput),
        ({"title": ["no", "text"], "status": 503}, Unavailable),
        ({"status": 418}, PygridError),
        ({"status": "400"}, PygridError),
        ({}, PygridError),
    ],
)
def test_documents_of_others(problem: dict[str, Any], cls: type[PygridError]) -> None:
    assert type(from_problem(problem)) is cls
