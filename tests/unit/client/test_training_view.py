"""What a person sees of a training."""

from __future__ import annotations

import datetime as dt
import io

import msgspec
import pytest
from rich.console import Console

from pygrid.client.display.process_tables import seconds
from pygrid.client.display.training_view import describe, picture
from pygrid.messages.processes import CycleInfo, ProcessInfo
from pygrid.units import size

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def cycle(sequence: int, state: str = "completed", **changes: object) -> CycleInfo:
    made = CycleInfo(
        sequence=sequence,
        state=state,  # type: ignore[arg-type]
        attempt=1,
        checkpoint=sequence,
        num_assigned=12,
        num_reports=10,
        num_examples=1437,
        num_clipped=0,
        bytes_received=189_000,
        metrics={"loss": 0.25, "accuracy": 0.9375},
        created_at=T0,
        opened_at=T0,
        deadline_at=None,
        completed_at=T0 + dt.timedelta(seconds=1.5) if state == "completed" else None,
    )
    return msgspec.structs.replace(made, **changes)


def process(current: CycleInfo | None, **server_config: object) -> ProcessInfo:
    return ProcessInfo(
        id=1,
        name="digits",
        version="1.0",
        state="active",
        created_at=T0,
        num_parameters=4810,
        model_bytes=19_240,
        num_checkpoints=current.sequence if current else 1,
        plans=[],
        client_config={},
        server_config=server_config,
        cycle=current,
    )


def shown(info: ProcessInfo, completed: list[CycleInfo]) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(picture(info, completed, 120))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_cycle_in_one_line() -> None:
    assert describe(cycle(3)) == (
        "cycle 3 completed: 10 reports of 12 devices, 1,437 examples, 189 kB, 1.5 s, accuracy 0.9375, loss 0.25"
    )
    assert describe(cycle(4, "open", metrics={}, num_reports=1)).startswith(
        "cycle 4 open: 1 report of 12 devices, 1,437"
    )
    assert seconds(cycle(4, "open")) is None


def test_the_live_view_shows_how_far_it_is() -> None:
    text = shown(process(cycle(3, "open", num_reports=4), num_cycles=20, max_diffs=10), [cycle(1), cycle(2)])
    assert "digits 1.0  active, 4,810 parameters" in text
    assert "2 of 20" in text
    assert "open: reports 4 of 10, 12 devices at work" in text
    assert text.count("0.9375") == 2


def test_the_live_view_keeps_the_newest_cycles() -> None:
    text = shown(process(cycle(31, "open")), [cycle(n) for n in range(1, 31)])
    assert "15 earlier cycles not shown" in text
    assert "30, without an end" in text


def test_the_live_view_of_a_process_without_a_cycle() -> None:
    assert "0 of 5" in shown(process(None, num_cycles=5), [])


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (189_000, "189 kB"),
        (999_600, "1 MB"),
        (1_240_000_000, "1.24 GB"),
    ],
)
def test_bytes_for_people(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
