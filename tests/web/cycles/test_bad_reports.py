"""Reports that must not count: wrong keys, wrong arrays, broken bytes, broken connections, for small and for large
models.

Should happen: each is refused with a 4xx and a stable code, soon, and a good report under the same key still counts.
Should not happen: a count or a checkpoint changes; a file is left; a key is spent; a report counts twice.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from pygrid.core.cycles import CycleState
from pygrid.features.cycles import report_intake
from pygrid.features.cycles.service import CyclesService
from pygrid.storage.sql.database import Database
from pygrid.tensors import Params, encode
from pygrid.web import requests
from pygrid.web.services import service
from support.eventually import eventually, turns
from support.training import Device, Site, assert_values, bearer, model, scope, wide_plan
from support.web import assert_problem

WIDE = 100_000
"""Features of a model of 1.2 MB, whose reports go through a file of their own."""


@dataclass
class Case:
    """A process that waits for a second report, and a device that has not reported."""

    site: Site
    process: dict[str, Any]
    device: Device
    wide: int

    def model(self, value: float) -> Params:
        return model(value, self.wide)

    async def post(self, content: Any, **headers: str) -> httpx.Response:
        return await self.site.web.post(
            "/model-centric/report", content=content, headers={**bearer(self.device.key), **headers}
        )

    async def assert_unchanged(self) -> None:
        """Nothing was counted or left behind."""
        cycle = await self.site.cycle(self.process)
        assert (cycle["state"], cycle["num_reports"], cycle["num_assigned"]) == ("open", 1, 2)
        assert await self.site.num_checkpoints(self.process) == 1
        assert len(self.site.diff_files()) == (1 if self.wide else 0)

    async def assert_unharmed(self) -> None:
        """Nothing was changed, and a good report under the same key completes the cycle."""
        await self.assert_unchanged()
        answer = await self.device.send(self.model(0.25))
        assert answer.json() == {"status": "success"}, answer.text
        await self.site.until_completed(self.process)
        assert_values(await self.site.checkpoint(self.process), 0.625)


@pytest.fixture(params=[0, WIDE], ids=["small", "large"])
async def case(site: Site, request: pytest.FixtureRequest) -> Case:
    wide: int = request.param
    plans = {"training_plan": wide_plan(wide)} if wide else None
    process = await site.host(start=model(1.0, wide), plans=plans, outlier_factor=None)
    first, device = await site.devices(process, 2)
    assert (await first.send(model(0.5, wide))).status_code == 200
    return Case(site, process, device, wide)


# -- the content -------------------------------------------------------------------------------------------------------


def _spoil(arrays: Params, name: str, value: float) -> Params:
    arrays[name].reshape(-1)[-1] = value
    return arrays


def _with(arrays: Params, **changes: Any) -> Params:
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def _header(length: int, text: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + text


WRONG_ARRAYS: dict[str, tuple[str, Callable[[Params], Params]]] = {
    "nan": ("non_finite", lambda a: _spoil(a, "weight", np.nan)),
    "infinity": ("non_finite", lambda a: _spoil(a, "bias", np.inf)),
    "minus infinity": ("non_finite", lambda a: _spoil(a, "weight", -np.inf)),
    "an array missing": ("shape_mismatch", lambda a: _with(a, bias=None)),
    "an array too many": ("shape_mismatch", lambda a: _with(a, extra=np.zeros(1, np.float32))),
    "another name": ("shape_mismatch", lambda a: _with(a, bias=None, Bias=a["bias"])),
    "another shape": ("shape_mismatch", lambda a: _with(a, bias=a["bias"].reshape(1, 3))),
    "transposed": ("shape_mismatch", lambda a: _with(a, weight=np.ascontiguousarray(a["weight"].T))),
    "float16": ("shape_mismatch", lambda a: _with(a, bias=a["bias"].astype(np.float16))),
    "int32": ("shape_mismatch", lambda a: _with(a, bias=a["bias"].astype(np.int32))),
    "nothing": ("shape_mismatch", lambda _: {}),
}


async def test_other_arrays_than_the_models_are_refused(case: Case, subtests: pytest.Subtests) -> None:
    for wrong, (code, make) in WRONG_ARRAYS.items():
        with subtests.test(wrong):
            assert_problem(await case.post(encode(make(case.model(0.5)))), 400, code)
            await case.assert_unchanged()
    await case.assert_unharmed()


async def test_a_refusal_names_the_array(case: Case) -> None:
    assert (
        assert_problem(await case.post(encode(_spoil(case.model(0.5), "bias", np.nan))), 400, "non_finite")["array"]
        == "bias"
    )
    missing = _with(case.model(0.5), weight=None)
    assert assert_problem(await case.post(encode(missing)), 400, "shape_mismatch")["array"] == "weight"


BROKEN: dict[str, tuple[int, str, Callable[[bytes], bytes]]] = {
    "empty": (400, "invalid_tensors", lambda _: b""),
    "too short for a prefix": (400, "invalid_tensors", lambda data: data[:7]),
    "the prefix alone": (400, "invalid_tensors", lambda data: data[:8]),
    "half a header": (400, "invalid_tensors", lambda data: data[:40]),
    "no values": (400, "invalid_tensors", lambda data: data[: 8 + int.from_bytes(data[:8], "little")]),
    "one byte short": (400, "invalid_tensors", lambda data: data[:-1]),
    "one value short": (400, "invalid_tensors", lambda data: data[:-4]),
    "one byte more": (400, "invalid_tensors", lambda data: data + b"\0"),
    "twice": (400, "invalid_tensors", lambda data: data[:1000] * 2 if len(data) < 1000 else data + data[:1000]),
    "no header at all": (400, "invalid_tensors", lambda _: b"x" * 5000),
    "a header of 2^63 bytes": (400, "invalid_tensors", lambda data: _header(2**63) + data[8:]),
    "a header longer than all": (400, "invalid_tensors", lambda data: _header(len(data)) + data[8:]),
    "a header of 0 bytes": (400, "invalid_tensors", lambda data: _header(0) + data[8:]),
    "a header that is no JSON": (400, "invalid_tensors", lambda data: _header(10, b"{" * 10) + data[8:]),
    "a header that is a list": (400, "invalid_tensors", lambda data: _header(2, b"[]") + data[8:]),
    "a header nested deeply": (400, "invalid_tensors", lambda data: _header(4000, b'{"a":' + b"[" * 3995) + data[8:]),
    "more than is allowed": (413, "payload_too_large", lambda data: data + b"\0" * (len(data) // 10 + 200_000)),
    "a pickle": (400, "invalid_tensors", lambda _: b"\x80\x04\x95" + b"c" * 200),
}


async def test_broken_bytes_are_refused(case: Case, subtests: pytest.Subtests) -> None:
    for broken, (status, code, make) in BROKEN.items():
        with subtests.test(broken):
            assert_problem(await case.post(make(encode(case.model(0.5)))), status, code)
            await case.assert_unchanged()
    await case.assert_unharmed()


CLAIMS: dict[str, dict[str, str]] = {
    "no examples": {"num_examples": "0"},
    "negative": {"num_examples": "-5"},
    "a fraction": {"num_examples": "1.5"},
    "not a number": {"num_examples": "many"},
    "another script": {"num_examples": "٣"},
    "more than there can be": {"num_examples": "1" + "0" * 13},
    "digits without end": {"num_examples": "9" * 10_000},
    "a metric that is none": {"metric.loss": "low"},
    "a metric that is nan": {"metric.loss": "nan"},
    "an infinite metric": {"metric.loss": "-inf"},
    "a metric out of range": {"metric.loss": "1e999"},
    "a metric without a name": {"metric.": "1"},
    "too long a name": {"metric." + "x" * 65: "1"},
    "too many metrics": {f"metric.{number}": "1" for number in range(33)},
}


async def test_claims_that_cannot_be_are_refused(case: Case, subtests: pytest.Subtests) -> None:
    for claim, metadata in CLAIMS.items():
        with subtests.test(claim):
            assert_problem(await case.post(encode(case.model(0.5), metadata)), 400, "invalid_input")
            await case.assert_unchanged()
    await case.assert_unharmed()


async def test_values_up_to_the_largest_are_summed(site: Site) -> None:
    """Their squares are far beyond float32; the checkpoint is still a number."""
    process = await site.host()
    one, two = await site.devices(process, 2)
    largest = float(np.finfo(np.float32).max)
    assert (await one.send(model(largest))).status_code == 200
    assert (await two.send(model(-largest))).status_code == 200
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 1.0)


# -- the key -----------------------------------------------------------------------------------------------------------


async def test_a_key_of_nobody_is_refused(case: Case) -> None:
    for key in ("0" * 64, "x", "é" * 10, "a" * 5000):
        headers = {b"authorization": b"Bearer " + key.encode()}
        answer = await case.site.web.post("/model-centric/report", content=encode(case.model(0.5)), headers=headers)
        assert_problem(answer, 401, "invalid_request_key")
    await case.assert_unharmed()


async def test_no_key_is_refused(case: Case) -> None:
    answer = await case.site.web.post("/model-centric/report", content=encode(case.model(0.5)))
    assert_problem(answer, 401, "missing_request_key")
    await case.assert_unharmed()


async def test_the_key_of_another_is_refused(case: Case) -> None:
    stranger = await case.site.device(case.process)
    answer = await case.site.web.post(
        "/model-centric/report",
        params={"worker_id": stranger.worker_id, "request_key": case.device.key},
        content=encode(case.model(0.5)),
    )
    assert_problem(answer, 401, "invalid_request_key")
    await case.assert_unharmed()


async def test_the_same_report_again_is_a_success_and_counts_once(case: Case) -> None:
    data = encode(case.model(0.25), {"num_examples": "1"})
    for _ in range(3):
        assert (await case.device.send(data)).json() == {"status": "success"}
    await case.site.until_completed(case.process)
    # Also after the cycle; and other bytes never.
    assert (await case.device.send(data)).json() == {"status": "success"}
    assert_problem(await case.device.send(case.model(0.5)), 409, "already_reported")
    assert (await case.site.cycles(case.process))[0]["num_reports"] == 2
    assert_values(await case.site.checkpoint(case.process), 0.625)
    assert case.site.diff_files() == []


async def test_a_commit_whose_answer_is_lost_counts_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the connection to the database breaks at COMMIT: it held, the writer saw an error and runs the unit
    again.
    """
    dialect = service(case.site.app.state, Database).engine.dialect
    do_commit, lost = dialect.do_commit, []

    def lose_the_answer(connection: Any) -> None:
        do_commit(connection)
        if not lost and threading.current_thread().name == "database-write":
            lost.append(connection)
            raise ConnectionError("the server closed the connection")

    monkeypatch.setattr(dialect, "do_commit", lose_the_answer)
    await case.assert_unharmed()
    assert len(lost) == 1
    assert (await case.site.cycles(case.process))[0]["num_reports"] == 2


async def test_repeating_a_report_does_not_fill_the_disk(site: Site) -> None:
    process = await site.host(max_diffs=3)
    one, two = await site.devices(process, 2)
    await one.report(0.5)
    (segment,) = (site.folder / "diffs").glob("*.segment")
    size = segment.stat().st_size
    for _ in range(5):
        await one.report(0.5)
        assert_problem(await one.send(model(0.25)), 409, "already_reported")
    assert segment.stat().st_size == size
    await two.report(0.5)
    assert segment.stat().st_size == 2 * size


async def test_other_bytes_under_a_used_key_are_refused(case: Case) -> None:
    process = await case.site.host(name="other", start=case.model(1.0), plans=_plans(case), max_diffs=3)
    (device,) = await case.site.devices(process, 1)
    assert (await device.send(case.model(0.5))).status_code == 200
    assert_problem(await device.send(case.model(0.25)), 409, "already_reported")
    assert_problem(await device.send(encode(case.model(0.5), {"num_examples": "7"})), 409, "already_reported")
    assert (await case.site.cycle(process))["num_reports"] == 1


def _plans(case: Case) -> dict[str, bytes] | None:
    return {"training_plan": wide_plan(case.wide)} if case.wide else None


async def test_the_same_report_a_hundred_times_at_once_counts_once(case: Case) -> None:
    data = encode(case.model(0.25))
    answers = await asyncio.gather(*(case.device.send(data) for _ in range(10 if case.wide else 100)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"status":"success"}')}
    completed = await case.site.until_completed(case.process)
    assert completed["num_reports"] == 2
    assert_values(await case.site.checkpoint(case.process), 0.625)
    assert case.site.diff_files() == []


async def test_different_reports_at_once_under_one_key_count_as_one(case: Case) -> None:
    process = await case.site.host(name="other", start=case.model(1.0), plans=_plans(case), max_diffs=2)
    (device,) = await case.site.devices(process, 1)
    answers = await asyncio.gather(*(device.send(case.model(value)) for value in (0.125, 0.25, 0.5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert (await case.site.cycle(process))["num_reports"] == 1


# -- the connection ----------------------------------------------------------------------------------------------------


async def _chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await turns()


async def _stalling(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body of which no more comes."""
    for piece in pieces:
        yield piece
    await asyncio.Event().wait()


async def _dripping(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(len(data)):
        yield data[begin : begin + 1]
        await asyncio.sleep(0.01)  # a client that is slow


async def _settled(site: Site) -> None:
    """Return when no report is on its way into the store, and no thread makes a file of one."""
    await eventually(lambda: not service(site.app.state, CyclesService)._submitting)


async def test_a_chunked_body_is_fine(case: Case) -> None:
    data = encode(case.model(0.25))
    pieces = (
        [data[begin : begin + 100_003] for begin in range(0, len(data), 100_003)] if case.wide else [data[:5], data[5:]]
    )
    assert (await case.post(_chunks(*pieces))).json() == {"status": "success"}
    await case.site.until_completed(case.process)
    assert_values(await case.site.checkpoint(case.process), 0.625)


async def test_an_endless_body_is_cut_off(case: Case) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield encode(case.model(0.5))
        while True:
            sent += 100_000
            yield b"\0" * 100_000

    problem = await asyncio.wait_for(case.post(endless()), 30)
    assert (problem.status_code, problem.json()["code"]) in [(413, "payload_too_large"), (400, "invalid_tensors")]
    assert sent < 1_000_000
    await case.assert_unharmed()


@pytest.mark.parametrize("announced", ["1", "99999999999", "9" * 5000, "-1", "²", "ten"])
async def test_a_content_length_that_lies_is_no_harm(case: Case, announced: str) -> None:
    """The length that counts is that of what comes; a larger announcement than is allowed is believed at once."""
    headers = {b"content-length": announced.encode("latin-1"), b"authorization": f"Bearer {case.device.key}".encode()}
    data = encode(case.model(0.25))
    answer = await case.site.web.post("/model-centric/report", content=_chunks(data), headers=headers)
    if announced.startswith("99"):
        assert_problem(answer, 413, "payload_too_large")
        await case.assert_unharmed()
    else:
        assert answer.json() == {"status": "success"}


async def test_a_stalled_upload_is_given_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "SLOW_S", 0.2)
    data = encode(case.model(0.5))
    answer = await asyncio.wait_for(case.post(_stalling(data[: len(data) // 2])), 60)
    assert_problem(answer, 408, "too_slow")
    await case.assert_unharmed()


async def test_an_upload_that_drips_is_given_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole does not."""
    monkeypatch.setattr(report_intake, "GRACE_S", 0.2)
    monkeypatch.setattr(report_intake, "MIN_BYTES_PER_S", 10**9)
    data = encode(case.model(0.5))
    answer = await asyncio.wait_for(case.post(_dripping(data)), 60)
    assert_problem(answer, 408, "too_slow")
    await case.assert_unharmed()


async def _raw_report(case: Case, receive: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What the app sends for a report whose bytes come from ``receive``, as a server would call it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {case.device.key}".encode())]
    await case.site.app(scope("POST", "/model-centric/report", headers), receive, send)  # type: ignore[arg-type]
    return sent


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
async def test_a_connection_that_breaks_leaves_nothing(case: Case, part: float) -> None:
    data = encode(case.model(0.5))
    messages = [
        {"type": "http.request", "body": data[: int(part * len(data))], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    await _raw_report(case, receive)
    await case.assert_unharmed()


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
async def test_an_upload_that_is_cancelled_leaves_nothing(case: Case, part: float) -> None:
    """Before it has begun, while its bytes are written, and when all but the last were."""
    data, sent = encode(case.model(0.5))[:-4], asyncio.Event()
    before = case.site.diff_files()

    async def hanging() -> AsyncIterator[bytes]:
        for begin in range(0, int(part * len(data)), 300_000):
            yield data[begin : begin + 300_000]
        sent.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(case.post(hanging()))
    await asyncio.wait_for(sent.wait(), 60)
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    # A file that a thread was just making is removed by it.
    await eventually(lambda: case.site.diff_files() == before)
    await case.assert_unharmed()


async def test_a_cancelled_report_is_all_there_or_not_at_all(case: Case) -> None:
    """Cancelled at any moment on its way into the store: what is counted can be averaged, what is not has left
    nothing.
    """
    process = await case.site.host(
        name="other",
        start=case.model(1.0),
        plans=_plans(case),
        max_diffs=None,
        max_workers=6,
        cycle_length=60,
        outlier_factor=None,
    )
    devices = await case.site.devices(process, 6)
    data = encode(case.model(0.5))
    for number, device in enumerate(devices):
        task = asyncio.create_task(device.send(data))
        for _ in range(4 * number):
            await asyncio.sleep(0.002)  # another moment each time; which one does not matter
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await _settled(case.site)
    num_reports = (await case.site.cycle(process))["num_reports"]
    if num_reports < 6:
        if case.wide:
            assert len(case.site.diff_files()) == num_reports + 1
        for device in devices:
            assert (await device.send(data)).json() == {"status": "success"}
    completed = await case.site.until_completed(process)
    assert completed["num_reports"] == 6
    found = await case.site.web.get("/model-centric/retrieve-model", params={"name": "other"}, headers=case.site.owner)
    assert found.headers["PyGrid-Checkpoint"] == "2"


async def test_a_cycle_that_closes_during_an_upload_refuses_it(case: Case) -> None:
    process = await case.site.host(name="other", start=case.model(1.0), plans=_plans(case), max_diffs=1)
    slow, quick = await case.site.devices(process, 2)
    data = encode(case.model(0.5))

    async def interrupted() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        assert (await quick.send(case.model(0.25))).status_code == 200
        await case.site.until_completed(process)
        yield data[len(data) // 2 :]

    answer = await case.site.web.post("/model-centric/report", content=interrupted(), headers=bearer(slow.key))
    assert_problem(answer, 410, "cycle_closed")
    cycle = (await case.site.cycles(process))[0]
    assert (cycle["state"], cycle["num_reports"]) == (CycleState.COMPLETED.value, 1)
    await case.assert_unharmed()
    left = [path.name for path in (case.site.folder / "diffs").iterdir() if path.stat().st_size]
    assert left == [], "the diffs of a cycle that is over are gone"


# -- other messages ----------------------------------------------------------------------------------------------------


def _nested(depth: int) -> bytes:
    return b'{"worker_id":' + b"[" * depth + b"]" * depth + b"}"


MESSAGES: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"{", 400, "invalid_json"),
    "nothing": (b"", 400, "invalid_input"),
    "not UTF-8": (b'{"worker_id":"\xff"}', 400, "invalid_json"),
    "a list": (b"[]", 400, "invalid_input"),
    "a number": (b"1", 400, "invalid_input"),
    "null": (b"null", 400, "invalid_input"),
    "no fields": (b'{"wait_s":0}', 400, "missing_field"),
    "nested deeply": (_nested(40), 400, "json_too_complex"),
    "nested very deeply": (_nested(30_000), 400, "json_too_complex"),
    "too long": (json.dumps({"worker_id": "x" * 70_000}).encode(), 413, "payload_too_large"),
    "fields of other types": (b'{"worker_id":1,"model":[],"wait_s":0}', 400, "invalid_input"),
    "NaN": (b'{"worker_id":"w","model":"digits","ping":NaN}', 400, "invalid_json"),
}


async def test_messages_that_are_none_are_refused(site: Site, subtests: pytest.Subtests) -> None:
    for route in ("authenticate", "cycle-request"):
        for name, (body, status, code) in MESSAGES.items():
            with subtests.test(name, route=route):
                answer = await site.web.post(f"/model-centric/{route}", content=body)
                if route == "cycle-request" and name in ("a list", "a number", "null"):
                    # No native client sends that; for clients of 2020 it is the published refusal.
                    assert (answer.status_code, list(answer.json())) == (200, ["status", "error"])
                    assert answer.json()["status"] == "rejected"
                    continue
                assert answer.status_code == status, answer.text
                # Of a field that is missing and one that is wrong either may be named.
                assert answer.json()["code"] in (code, "missing_field")


async def test_numbers_that_cannot_be_are_refused(site: Site, subtests: pytest.Subtests) -> None:
    process = await site.host()
    device = await site.device(process)
    wrong = [
        (field, value)
        for field in ("ping", "download", "upload")
        for value in ("-1", "1e999", "-0.001", '"fast"', "[]")
    ]
    wrong += [("wait_s", value) for value in ("-1", "120.5", "1e300", "1e999", '"soon"', "{}")]
    for field, value in wrong:
        with subtests.test(field, value=value):
            wait_s = "" if field == "wait_s" else '"wait_s":0,'
            body = f'{{"worker_id":"{device.worker_id}","model":"digits","version":"1.0",{wait_s}"{field}":{value}}}'
            answer = await site.web.post("/model-centric/cycle-request", content=body)
            assert (answer.status_code, answer.json()["code"] in ("invalid_input", "invalid_json")) == (400, True), (
                answer.text
            )
    assert (await site.cycle(process))["num_assigned"] == 0


async def test_a_worker_of_nobody_is_refused(site: Site) -> None:
    await site.host()
    for bad in ("nobody", "", "x" * 5000, "é"):
        asked = {"worker_id": bad, "model": "digits", "version": "1.0", "wait_s": 0}
        assert_problem(await site.web.post("/model-centric/cycle-request", json=asked), 404, "worker_not_found")
    asked = {"worker_id": "a\0b", "model": "digits", "version": "1.0", "wait_s": 0}
    assert_problem(await site.web.post("/model-centric/cycle-request", json=asked), 400, "invalid_text")


async def test_a_process_that_is_not_there_is_refused(site: Site) -> None:
    process = await site.host()
    device = await site.device(process)
    for wanted in ({"model": "digit"}, {"model": "digits", "version": "9"}, {"model": "dig\1its"}, {"model": ""}):
        asked = {"worker_id": device.worker_id, "wait_s": 0, **wanted}
        assert_problem(await site.web.post("/model-centric/cycle-request", json=asked), 404, "process_not_found")
        answer = await site.web.post(
            "/model-centric/authenticate", json={"model_name": wanted["model"], "model_version": "9"}
        )
        assert_problem(answer, 404, "process_not_found")


async def test_downloads_of_what_is_not_there_are_refused(site: Site) -> None:
    process = await site.host()
    (device,) = await site.devices(process, 1)
    for route, field, code in (("get-model", "model_id", "model_not_found"), ("get-plan", "plan_id", "plan_not_found")):
        for wanted in ("0", "-1", "999", "9" * 40):
            answer = await site.web.get(f"/model-centric/{route}", params={field: wanted}, headers=bearer(device.key))
            assert (answer.status_code, answer.json()["code"]) in [(404, code), (400, "invalid_input")], answer.text
        assert_problem(await site.web.get(f"/model-centric/{route}", headers=bearer(device.key)), 400, "invalid_input")
        assert_problem(await site.web.get(f"/model-centric/{route}", params={field: 1}), 401, "missing_request_key")


async def test_a_report_that_waits_for_the_store_survives_being_cut_off(case: Case) -> None:
    """Cut off after its bytes are safe and before its row is: it counts, the cycle closes, and the checkpoint
    is made.
    """
    begun, held = threading.Event(), threading.Event()

    def hold(_connection: object) -> None:
        begun.set()
        held.wait(60)

    holding = asyncio.create_task(service(case.site.app.state, Database).write(hold))
    assert await asyncio.to_thread(begun.wait, 60)
    report = asyncio.create_task(case.device.send(case.model(0.25)))
    await eventually(lambda: service(case.site.app.state, CyclesService)._submitting)
    report.cancel()
    await asyncio.gather(report, return_exceptions=True)
    held.set()
    await holding
    await case.site.until_completed(case.process)
    assert_values(await case.site.checkpoint(case.process), 0.625)
