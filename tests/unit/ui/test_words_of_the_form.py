"""What the Domain says about a CSV file, in the words of the form of the console."""

from __future__ import annotations

import pytest

from pygrid.core.columns import check_declaration
from pygrid.core.datasets import ColumnDeclaration
from pygrid.errors import InvalidConfig
from pygrid.tabular.csv_diagnosis import advice
from pygrid.tabular.csv_kinds import Marks
from pygrid.ui.upload_forms import in_words_of_the_form


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n/a", "; write 'n/a' under \"Marks of missing values\" if it stands for a missing value"),
        ("61,5", "; choose the comma as decimal mark if the comma is a decimal mark"),
        ("1'000", '; write "\'" under "Mark between thousands" if it is a mark between groups of digits'),
        ("007", ", because of the zero before it; declare the column as text to keep it"),
    ],
)
def test_options_of_the_sdk_become_fields(text: str, words: str) -> None:
    assert in_words_of_the_form(advice(text, Marks())) == words


def test_bounds_in_the_wrong_order_are_those_of_the_form() -> None:
    with pytest.raises(InvalidConfig) as refused:
        check_declaration(ColumnDeclaration("age", min=120.0, max=0.0))
    assert in_words_of_the_form(refused.value.detail) == "the minimum of age is 120, above its maximum, 0"
