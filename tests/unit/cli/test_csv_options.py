"""Refusals and notes about CSV files on the command line: they name options, not arguments of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from pygrid.cli.csv_options import as_options, send_or_ask
from pygrid.errors import InvalidDataset


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pass missing=['?'] if it", "pass --missing '?' if it"),
        ('pass missing=["it\'s"]', "pass --missing 'it'\"'\"'s'"),
        ("pass skip_lines=[1, 2], or header=True if", "pass --skip-line 1 --skip-line 2, or --header if"),
        (
            "header=False if it is a record, or all names as names=",
            "--no-header if it is a record, or all names as --names",
        ),
        ("pass decimal=',' and thousands='.' if", "pass --decimal , and --thousands . if"),
        ('pass thousands="\'" if', "pass --thousands ''\"'\"'' if"),
        ("pass delimiter=' ', or", "pass --delimiter ' ', or"),
        ("pass encoding='latin-1' or", "pass --encoding latin-1 or"),
        ("(to store it, name it with index=)", "(to store it, name it with --index)"),
        ("column 'my_header=x' has missing=1", "column 'my_header=x' has missing=1"),
        ("declare format=%d.%m.%Y", "declare format=%d.%m.%Y"),
    ],
)
def test_arguments_are_told_as_options(text: str, told: str) -> None:
    assert as_options(text) == told


def test_a_refusal_names_options_and_keeps_its_code_and_fields() -> None:
    def send() -> None:
        raise InvalidDataset("line 2: pass missing=['?']", code="dataset_dtype", line=2)

    with pytest.raises(InvalidDataset, match=r"line 2: pass --missing '[?]'") as refused:
        send_or_ask(send, Path("t.csv"))
    assert (refused.value.code, refused.value.fields) == ("dataset_dtype", {"line": 2})
