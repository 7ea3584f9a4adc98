from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_seed() -> Iterator[None]:
    """The same random models in every run, and torch's generator as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield
