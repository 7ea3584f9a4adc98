"""Multipart forms as they arrive, in pieces of any size.

Should happen: each part comes whole to where it is wanted, however the body was cut. Should not: a part beyond its
limit, twice, or of a name that the form does not have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidInput, PayloadTooLarge
from pygrid.web.forms import PartTarget, read_form, unknown_part

TYPE = "multipart/form-data; boundary=cut"
LARGE = bytes(range(256)) * 5000


def body(*parts: tuple[str, bytes]) -> bytes:
    heads = [
        (b'--cut\r\nContent-Disposition: form-data; name="%s"\r\n\r\n' % name.encode(), data) for name, data in parts
    ]
    return b"".join(head + data + b"\r\n" for head, data in heads) + b"--cut--\r\n"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


async def read(
    data: bytes, size: int = 1000, content_type: str = TYPE
) -> tuple[dict[str, bytes], bytes, list[list[str]]]:
    """The small parts, the large one, and which parts were there when each began."""
    taken, before = bytearray(), []

    def begin(name: str, known: Mapping[str, bytes]) -> PartTarget:
        before.append([*known])
        if name == "model":
            return PartTarget(2 * 10**6, taken.extend)
        if name != "config":
            raise unknown_part(name, "config and model")
        return PartTarget(100)

    found = await read_form(content_type, pieces(data, size), begin, parts="config and model", max_parts=4)
    return found, bytes(taken), before


@given(st.integers(1, 5000), st.binary(max_size=100), st.booleans())
async def test_parts_come_whole_however_the_body_was_cut(size: int, config: bytes, is_first: bool) -> None:
    parts = [("config", config), ("model", LARGE[:20_000])]
    found, taken, before = await read(body(*(parts if is_first else parts[::-1])), size)
    assert found == {"config": config, "model": b""}
    assert taken == LARGE[:20_000]
    assert before == [[], ["config"] if is_first else ["model"]]


async def test_a_large_part_is_handed_on_as_it_arrives() -> None:
    _, taken, _ = await read(body(("model", LARGE)), 100_000)
    assert taken == LARGE


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (body(("config", b"1"), ("config", b"2")), "part 'config' twice"),
        (body(("plan", b"")), "unknown part 'plan'; it takes config and model"),
        (b"--cut\r\nContent-Dis", "the form is malformed"),
        (b"", "the form is malformed"),
    ],
)
async def test_forms_that_are_none(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        await read(data)
    assert caught.value.code == "invalid_form"


async def test_what_is_no_form() -> None:
    with pytest.raises(InvalidInput, match="send a multipart/form-data form with config and model"):
        await read(b"{}", content_type="application/json")


@pytest.mark.parametrize(("part", "data"), [("config", b"x" * 101), ("model", LARGE * 2)])
async def test_a_part_beyond_its_limit(part: str, data: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match=f"part '{part}' has more than"):
        await read(body((part, data)), 100_000)
