"""Fixtures that find what a test leaves open."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import psutil
import pytest

_MAX_GROWTH_BYTES = 256 * 1024**2
_sizes: list[int] = []
"""Memory before the first test, then after each collection of everything."""


def _memory_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.fixture(scope="module", autouse=True)
def _thaw() -> Iterator[None]:
    """What fixtures of modules made is collected once it takes much memory; looking at everything takes long."""
    if not _sizes:
        _sizes.append(_memory_bytes())
    yield
    if _memory_bytes() - _sizes[-1] > _MAX_GROWTH_BYTES:
        gc.unfreeze()
        gc.collect()
        _sizes[:] = [_memory_bytes()]


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """What a test leaves open fails this test, and not another one in which the collector happens to find it.

    ``PYTHONTRACEMALLOC=20`` shows where it was opened.
    """
    gc.collect()  # pytest held the fixtures of the test before until it had ended
    gc.freeze()  # the collector looks at what the test made only, which takes some milliseconds
    yield
    gc.collect()
