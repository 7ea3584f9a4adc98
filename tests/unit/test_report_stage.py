"""The texts of diffs whose request key comes after them: what an address can keep in memory.

Should happen: texts of several addresses are kept; what ends makes place. Should not happen: one address takes the
memory that all share.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pygrid.errors import Unavailable
from pygrid.features.cycles.report_stage import (
    MAX_IN_MEMORY_BYTES,
    MAX_IN_MEMORY_PER_ADDRESS,
    ReportStage,
    StagedText,
)

NUM_TEXTS = MAX_IN_MEMORY_PER_ADDRESS // MAX_IN_MEMORY_BYTES


class Unbounded:
    def grow(self, length: int) -> None:
        pass


async def _kept(stage: ReportStage, address: str, stack: contextlib.ExitStack) -> StagedText:
    text = stack.enter_context(stage.text(address, Unbounded()))
    await text.add(b"A" * MAX_IN_MEMORY_BYTES)
    return text


async def test_one_address_does_not_take_the_memory_of_all(tmp_path: Path) -> None:
    stage = ReportStage(tmp_path)
    with contextlib.ExitStack() as attacker, contextlib.ExitStack() as others:
        for _ in range(NUM_TEXTS):
            await _kept(stage, "203.0.113.9", attacker)
        with pytest.raises(Unavailable) as refused:
            await _kept(stage, "203.0.113.9", attacker)
        assert refused.value.code == "server_busy"
        await _kept(stage, "198.51.100.1", others)
        attacker.close()
        await _kept(stage, "203.0.113.9", others)


async def test_a_text_that_goes_to_a_file_makes_place(tmp_path: Path) -> None:
    stage = ReportStage(tmp_path)
    with contextlib.ExitStack() as stack:
        texts = [await _kept(stage, "203.0.113.9", stack) for _ in range(NUM_TEXTS)]
        await texts[0].add(b"B")
        assert stage.num_files == 1
        await _kept(stage, "203.0.113.9", stack)
        pieces = [piece async for piece in texts[0].read()]
        assert b"".join(pieces) == b"A" * MAX_IN_MEMORY_BYTES + b"B"
