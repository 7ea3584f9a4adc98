"""Fixtures that find what a test leaves open."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _thaw() -> Iterator[None]:
    """What fixtures of the module made may be collected with the next module."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """What a test leaves open fails this test, and not another one in which the collector happens to find it.

    ``PYTHONTRACEMALLOC=20`` shows where it was opened.
    """
    gc.freeze()  # the collector looks at what the test made only, which takes some milliseconds
    yield
    gc.collect()
