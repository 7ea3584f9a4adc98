"""The JSON of a report in pieces.

Should happen: any split and any order of the members gives the same members and bytes; escapes are read.
Should not happen: JSON that is not valid is accepted, a member counts twice, more than 4 KiB of other members are kept.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput, PayloadTooLarge, PygridError
from pygrid.features.cycles.report_text import MAX_OTHER_BYTES, DiffText, ReportText

DATA = bytes(range(256)) * 2
MEMBERS = {"worker_id": 'a "quoted" one', "request_key": "k" * 64}


def read(body: bytes, cuts: list[int]) -> tuple[dict[str, object], bytes]:
    """The members of a report, and the bytes of its diff."""
    text, diff, found = ReportText(), DiffText(), b""
    ends = sorted({min(cut, len(body)) for cut in cuts} | {len(body)})
    for begin, end in zip([0, *ends], ends, strict=False):
        found += diff.add(text.add(body[begin:end]))
    members = text.finish()
    diff.finish()
    return members, found


def lines(data: bytes) -> str:
    return base64.encodebytes(data).decode().replace("\n", "\r\n")


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": json.dumps,
    "slashes are escaped, as in Swift": lambda text: json.dumps(text).replace("/", "\\/"),
    "some marks are escaped, as by Gson": lambda text: json.dumps(text).replace("=", "\\u003d").replace("+", "\\u002B"),
    "spaces": lambda text: json.dumps(" ".join(text)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(
    order=st.permutations(["worker_id", "request_key", "diff"]),
    cuts=st.lists(st.integers(0, 900), max_size=6),
    has_lines=st.booleans(),
)
def test_any_split_and_order(spelling, order, cuts, has_lines):
    diff = lines(DATA) if has_lines else base64.b64encode(DATA).decode()
    texts = {**{name: json.dumps(text) for name, text in MEMBERS.items()}, "diff": SPELLINGS[spelling](diff)}
    parts = [f'"{name}" :\n {texts[name]}' for name in order]
    members, found = read((" {" + " ,".join(parts) + "} ").encode(), cuts)
    assert members == {**MEMBERS, "diff": ""}
    assert found == DATA


def test_members_before_the_diff_are_known_when_it_begins():
    text = ReportText()
    assert text.add(b'{"x": {"diff": "no"}, "y": ["diff"], "request_key": "k", "diff": "AA') == b"AA"
    assert text.members_before_diff() == {"x": {"diff": "no"}, "y": ["diff"], "request_key": "k", "diff": ""}
    assert text.add(b'AA"}') == b"AA"
    assert text.finish()["request_key"] == "k"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"diff": "AAAA"', "invalid_json"),
        ('{"diff": "AAAA', "invalid_json"),
        ('{"diff": "AAAA"}}', "invalid_json"),
        ('{"a": "diff": "AAAA"}', "invalid_json"),
        ('{"diff":: "AAAA"}', "invalid_json"),
        ('["diff": "AAAA"]', "invalid_json"),
        ('{"a": \'diff\', "diff": "AAAA"}', "invalid_json"),
        ('{"diff": "AAAA", "diff": "AAAA"}', "duplicate_key"),
        ('{"diff": "AAAA", "d\\u0069ff": "BBBB"}', "duplicate_key"),
        ('{"request_key": "a", "request_key": "b", "diff": "AAAA"}', "duplicate_key"),
        ('{"diff": "AA\\"AA"}', "invalid_input"),
        ('{"diff": "AA\\\\"}', "invalid_input"),
        ('{"diff": "AA\\u0100AA"}', "invalid_input"),
        ('{"diff": "AA\\b"}', "invalid_input"),
        ('{"diff": "AA\u20acA"}', "invalid_input"),
        ('{"diff": "A"}', "invalid_input"),
        ('{"diff": "AA=="}', ""),
        ('{"diff": "AA==AAAA"}', "invalid_input"),
        ('{"diff": "====", "x": 1}', "invalid_input"),
        ('{"diff": "AAA\\"}', "invalid_input"),
        ('{"diff": "AAAA\n"}', "invalid_json"),
        ('{"diff": "' + "[" * 40 + '"}', "invalid_input"),
        ('{"x": ' + "[" * 40 + "]" * 40 + ', "diff": "AAAA"}', "json_too_complex"),
        ('{"x": "\\u0000", "diff": "AAAA"}', "invalid_text"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_bad_reports(body, code, step):
    data = body.encode()
    found = ""
    try:
        read(data, list(range(0, len(data), step)))
    except PygridError as error:
        found = error.code
    assert found == code


def test_little_is_kept_of_other_members():
    for body in (b'{"x": "' + b"y" * 5000, b" " * 5000, b'{"x":1,' * 5000):
        with pytest.raises(PayloadTooLarge, match=str(MAX_OTHER_BYTES)):
            ReportText().add(body)


@given(st.text('AB+/= \\n"u{}:,', max_size=60), st.lists(st.integers(0, 80), max_size=5))
def test_what_json_reads_differently_is_refused(middle, cuts):
    body = '{"request_key": "k", "diff": "' + middle + '"}'
    try:
        members, found = read(body.encode(), cuts)
    except InvalidInput:
        return
    expected = json.loads(body)
    assert found == base64.b64decode("".join(expected["diff"].split()))
    assert {**expected, "diff": ""} == members
