"""The benchmarks run; what they measure is for benchmarks/README.md. Small sizes, so that nothing here takes long."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import fleet
import legacy
import model_memory
import relay
import search
from figure import Figure
from floor import Sum
from loadgen import Connection, RequestFailed
from pygrid.plans import Plan
from pygrid.plans.gate import check
from pygrid.tensors import decode, encode
from reports import measure_large, measure_latency
from server_process import start_domain, start_floor
from vector_model import diff_bytes, model_bytes, plan_bytes


def test_the_floor_adds_up_what_it_receives():
    total = Sum()
    for value in (0.5, 0.25):
        total.add(memoryview(bytearray(diff_bytes(1000, value))))
    total.add(memoryview(bytearray(encode({"a": np.ones(400, np.float32), "b": np.ones((6, 100), np.float32)}))))
    assert total.values is not None
    np.testing.assert_array_equal(total.values, np.full(1000, 1.75))


def test_the_plan_of_the_benchmarks_passes_the_gate():
    data = plan_bytes(1000)
    assert check(data).plan_id == Plan.from_bytes(data).id
    assert decode(model_bytes(1000))[0]["w"].shape == (1000,)


async def test_the_load_generator_and_the_floor_understand_each_other(tmp_path):
    with await asyncio.to_thread(start_floor, tmp_path) as floor:
        connections = [await Connection.open(floor.address) for _ in range(3)]
        # The last one is larger than a socket's buffers, so that it arrives in many pieces.
        for size in (1, 50_000, 2_000_000):
            answers = await asyncio.gather(*(c.request("POST", "/", diff_bytes(size)) for c in connections))
            assert [answer.json() for answer in answers] == [{"status": "success"}] * 3
        for connection in connections:
            connection.close()


@pytest.mark.slow
async def test_a_refusal_reaches_the_load_generator_with_its_status(tmp_path):
    with await asyncio.to_thread(start_domain, tmp_path) as domain:
        connection = await Connection.open(domain.address)
        with pytest.raises(RequestFailed, match="invalid_request_key") as refused:
            await connection.request("POST", "/model-centric/report", diff_bytes(10), bearer="0" * 64)
        assert refused.value.status == 401
        connection.close()


@pytest.mark.slow
async def test_cycles_and_large_reports_are_measured(tmp_path):
    figures = [
        *await measure_latency(tmp_path / "latency", num_devices=3, num_cycles=12),
        *await measure_large(tmp_path / "large", num_devices=2, size=100_000),
    ]
    assert [figure.unit for figure in figures] == ["ms", "x", "x"]
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.slow
async def test_clients_of_2020_are_measured(tmp_path):
    figures = [
        *await legacy.measure_report(tmp_path / "report", num_reports=3, repeats=1),
        *await legacy.measure_codec(tmp_path),
        *await legacy.measure_model(tmp_path / "model", num_downloads=3),
        *await legacy.measure_burst(tmp_path / "burst", num_at_once=4),
        *await legacy.measure_many(tmp_path / "many", num_devices=3, size=300_000),
    ]
    assert [figure.unit for figure in figures] == ["ms", "MB/s", "MB/s", "x", "s", "MB", "MB"]
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.slow
def test_the_memory_of_a_model_is_measured_and_bounded(tmp_path):
    """Four million numbers; the multiples of a small model are the larger ones, as each process has a fixed part."""
    found = {name: ratio for name, ratio, _ in model_memory.measure(tmp_path, 4.0, "sgd")}
    assert list(found) == ["build", "upload", "hosted", "train", "cycle"]
    assert found["train"] < 12
    assert found["upload"] < 3
    assert found["cycle"] < 8


@pytest.mark.slow
async def test_searches_are_measured(tmp_path):
    figures = await search.measure(tmp_path, num_domains=4, distance_s=0.0)
    assert [figure.unit for figure in figures] == ["ms"] * 3
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.parametrize(
    ("value", "at_least", "kept"),
    [(1.0, False, True), (2.0, False, True), (2.1, False, False), (1.9, True, False), (2.0, True, True)],
)
def test_a_budget_is_kept_on_its_side(value, at_least, kept):
    figure = Figure("what", value, "ms", 2.0, at_least=at_least)
    assert figure.kept is kept
    assert ("MISSED" in figure.line()) is not kept


@pytest.mark.slow
async def test_a_fleet_is_measured(tmp_path):
    figures = await fleet.measure(tmp_path, num_domains=3, seconds=0.5)
    assert [figure.unit for figure in figures] == ["%", "MB", "s"]
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.slow
def test_calls_through_a_relay_are_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in (("PIECE_BYTES", 1_000_000), ("NUM_WARM_CALLS", 20), ("NUM_SETUPS", 3), ("NUM_THREADS", 5)):
        monkeypatch.setattr(relay, name, value)
    figures = relay.measure(tmp_path, num_bytes=2_000_000, num_calls=50, repeats=1)
    assert [figure.unit for figure in figures] == ["MB/s", "MB/s", "ms", "ms", "ms", "/s"]
    assert all(figure.value > 0 for figure in figures if figure.unit != "ms")
