"""Large bodies beside the event loop: in a thread where there is much to do, in slices where they are sent on."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidTensors
from pygrid.offload import OFFLOAD_BYTES, SLICE_BYTES, offload, slices
from pygrid.tensors import decode


@given(st.lists(st.integers(0, 3).map(lambda n: bytes(range(256)) * (n * 1500)), max_size=4))
def test_slices_are_the_same_bytes(pieces: list[bytes]) -> None:
    found = [bytes(part) for part in slices(pieces)]
    assert b"".join(found) == b"".join(pieces)
    assert all(0 < len(part) <= SLICE_BYTES for part in found)


async def test_little_is_done_here_and_much_in_a_thread() -> None:
    assert await offload(OFFLOAD_BYTES, threading.current_thread) is threading.current_thread()
    assert await offload(OFFLOAD_BYTES + 1, threading.current_thread) is not threading.current_thread()


@pytest.mark.parametrize("num_bytes", [0, OFFLOAD_BYTES + 1])
async def test_what_is_raised_there_is_raised_here(num_bytes: int) -> None:
    with pytest.raises(InvalidTensors):
        await offload(num_bytes, decode, b"nothing")
