"""Values that change from cycle to cycle.

Should happen: the formulas; the same value for the same cycle; all values within the plan's range.
Should not happen: a process that is hosted, and later gives its devices a value that no plan takes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.configuration import Schedule, ServerConfig, read_server_config
from pygrid.configuration.schedules import ENDLESS, as_schedule, find_schedule_faults, value_of
from pygrid.errors import InvalidConfig

RANGES = {"lr": (0.001, 1.0), "epochs": (1.0, 100.0), "server_optimizer.learning_rate": (1e-9, 1e6)}


def values(count: int, **fields: Any) -> list[float]:
    schedule = Schedule(**fields)
    return [schedule.value(cycle) for cycle in range(1, count + 1)]


def faults(num_cycles: int = 0, client_config: dict[str, Any] | None = None, **schedules: Any) -> list[str]:
    config = read_server_config({"cycle_length": 60, "schedules": schedules})
    found = find_schedule_faults(config.schedules, num_cycles, client_config or {}, RANGES)
    return [fault.field for fault in found]


def test_the_formulas() -> None:
    assert values(3, name="constant", start=0.5) == [0.5, 0.5, 0.5]
    assert values(5, name="step", start=0.8, factor=0.5, every=2) == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert values(4, name="exponential", start=0.8, factor=0.5, end=0.15) == [0.8, 0.4, 0.2, 0.15]
    assert values(4, name="exponential", start=0.1, factor=2.0, end=0.3) == [0.1, 0.2, 0.3, 0.3]
    assert values(4, name="list", values=[0.3, 0.2]) == [0.3, 0.2, 0.2, 0.2]
    cosine = values(7, name="cosine", start=1.0, end=0.2, cycles=5)
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(5)] + [0.2, 0.2]
    np.testing.assert_allclose(cosine, expected, rtol=1e-12)


def test_a_number_is_a_constant_and_a_list_is_a_list() -> None:
    config = read_server_config({"cycle_length": 60, "schedules": {"lr": [0.3, 0.1], "momentum": 0.9}})
    assert as_schedule(config.schedules["lr"]) == Schedule(name="list", values=(0.3, 0.1))
    assert config.client_values_in(2) == {"lr": 0.1, "momentum": 0.9}
    again = ServerConfig(cycle_length=60, schedules={"lr": Schedule(name="cosine", start=1, end=0, cycles=9)})
    assert read_server_config(again.written()) == again
    assert again.written()["schedules"] == {"lr": {"name": "cosine", "start": 1.0, "end": 0.0, "cycles": 9}}


def test_counts_are_rounded() -> None:
    schedule = Schedule(name="exponential", start=8, factor=0.5)
    assert [value_of("epochs", schedule, cycle) for cycle in (1, 2, 3, 4, 5, 99)] == [8, 4, 2, 1, 1, 1]


def test_the_rate_of_the_server_follows_its_schedule() -> None:
    config = read_server_config(
        {
            "cycle_length": 60,
            "server_optimizer": {"name": "adam"},
            "schedules": {"server_optimizer.learning_rate": [1.0, 0.5]},
        }
    )
    assert [config.optimizer_in(cycle).learning_rate for cycle in (1, 2, 3)] == [1.0, 0.5, 0.5]
    assert config.client_values_in(1) == {}
    with pytest.raises(InvalidConfig, match="is in server_optimizer, too"):
        read_server_config(
            {
                "cycle_length": 60,
                "server_optimizer": {"learning_rate": 0.5},
                "schedules": {"server_optimizer.learning_rate": 1.0},
            }
        )


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ({"name": "cosin", "start": 1}, "did you mean 'cosine'"),
        ({"start": 1}, "name is required"),
        ({"name": "cosine", "start": 1, "cycles": 5}, "end is required with 'cosine'"),
        ({"name": "cosine", "start": 1, "end": 0, "cycles": 1}, "from 2 to"),
        ({"name": "constant", "start": 1, "factor": 0.5}, "it belongs to step or exponential"),
        ({"name": "exponential", "start": 1, "factor": 1.1}, "set end"),
        ({"name": "step", "start": 1, "factor": 0.5, "evry": 3}, "did you mean 'every'"),
        ({"name": "list", "values": []}, "use 1 to 10,000"),
        ({"name": "list", "values": [0.1, "x"]}, "schedules.lr.values[1]"),
        ("cosine", "it must be"),
        (True, "it must be"),
        ([0.1, None], "schedules.lr[1]"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(schedule: Any, text: str) -> None:
    with pytest.raises(InvalidConfig) as error:
        read_server_config({"cycle_length": 60, "schedules": {"lr": schedule}})
    assert text in error.value.detail


def test_every_value_must_be_in_the_range() -> None:
    assert faults(lr={"name": "exponential", "start": 0.5, "factor": 0.9, "end": 0.001}) == []
    assert faults(lr={"name": "exponential", "start": 0.5, "factor": 0.9}) == ["schedules.lr"], "it goes to 0"
    assert faults(num_cycles=10, lr={"name": "exponential", "start": 0.5, "factor": 0.9}) == []
    assert faults(lr=2.0, epochs={"name": "step", "start": 200, "factor": 0.5, "every": 1}) == [
        "schedules.lr",
        "schedules.epochs",
    ]
    assert faults(num_cycles=2, lr=[0.1, 0.1, 9.0]) == [], "the third value is never used"
    assert faults(lr=[0.1, 0.1, 9.0]) == ["schedules.lr"]
    assert faults(client_config={"lr": 0.1}, lr=0.2) == ["schedules.lr"]
    assert faults(learning_rate=0.1) == ["schedules.learning_rate"]


@given(
    st.sampled_from(["step", "exponential", "cosine"]),
    st.floats(0.001, 1.0),
    st.floats(0.001, 1.0),
    st.floats(1e-6, 1e6),
    st.integers(2, 1_000_000),
    st.integers(1, ENDLESS),
)
def test_a_value_stays_between_start_and_end(
    name: str, start: float, end: float, factor: float, cycles: int, cycle: int
) -> None:
    fields: dict[str, Any] = {"name": name, "start": start, "end": end}
    if name == "cosine":
        fields["cycles"] = cycles
    else:
        fields["factor"] = factor if (factor > 1) == (end > start) else 1 / factor
        fields |= {"every": cycles} if name == "step" else {}
    value = Schedule(**fields).value(cycle)
    # The cosine is rounded in float64.
    assert min(start, end) * (1 - 1e-12) <= value <= max(start, end) * (1 + 1e-12)
