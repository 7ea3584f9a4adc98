"""Each published field of ``server_config`` does what it says, and so do pygrid's own.

Should happen: clients are admitted, kept waiting, drawn, rested and refused as configured, with a hint when to come
back; cycles close by count and by the clock; a deadline with too few reports opens the same cycle again and keeps what
came. Should not happen: a late report counted; a cycle that waits for somebody who cannot come; a refusal without a
reason.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest

from pygrid.features.cycles import admission
from pygrid.tensors import encode
from support.eventually import eventually, turns
from support.streams import Waiting
from support.training import Device, Site, assert_values, bearer, config, form, model
from support.web import assert_problem

# -- who is admitted ---------------------------------------------------------------------------------------------------


async def test_min_workers_opens_a_cycle_when_enough_ask(site: Site) -> None:
    process = await site.host(min_workers=3, max_diffs=3)
    waiting = await site.cycle(process)
    assert (waiting["state"], waiting["deadline_at"]) == ("hosted", None)
    devices = [await site.device(process) for _ in range(3)]
    for device in devices[:2]:
        answer = await device.ask()
        assert (answer["reason"], answer["timeout"]) == ("waiting_for_workers", 5)
    # Asking twice does not make two of one.
    assert (await devices[0].ask())["reason"] == "waiting_for_workers"
    await devices[2].join()
    assert (await site.cycle(process))["state"] == "open"
    assert [(await device.ask())["status"] for device in devices[:2]] == ["accepted", "accepted"]


async def test_min_workers_answers_those_who_wait_at_once(site: Site) -> None:
    process = await site.host(min_workers=3, max_diffs=3)
    devices = [await site.device(process) for _ in range(3)]
    waiting = [await Waiting(site, device).held() for device in devices[:2]]
    await devices[2].join()
    assert [(await device.answer())["status"] for device in waiting] == ["accepted", "accepted"]
    deadline = (await site.cycle(process))["deadline_at"]
    assert deadline == "2026-01-01T00:01:00Z"


@pytest.mark.parametrize("wait_s", [0, 30])
async def test_many_who_ask_at_once_open_a_cycle_together(site: Site, wait_s: float) -> None:
    """Some ask in the very moment in which it opens."""
    process = await site.host(min_workers=20, max_diffs=40)
    devices = [await site.device(process) for _ in range(40)]
    answers = await asyncio.gather(*(device.ask(wait_s=wait_s) for device in devices))
    reasons = Counter(answer.get("reason", "accepted") for answer in answers)
    if wait_s:
        assert reasons == {"accepted": 40}
    else:
        assert set(reasons) == {"accepted", "waiting_for_workers"}
        assert reasons["accepted"] >= 21 - 1
    assert (await site.cycle(process))["num_assigned"] == reasons["accepted"]


async def test_who_asked_long_ago_does_not_count_for_min_workers(site: Site) -> None:
    process = await site.host(min_workers=2)
    first, second, third = [await site.device(process) for _ in range(3)]
    await first.ask()
    site.clock.advance(60)
    assert (await second.ask())["reason"] == "waiting_for_workers"
    site.clock.advance(5)
    assert (await third.ask())["status"] == "accepted"


async def test_max_workers_bounds_who_is_admitted(site: Site) -> None:
    process = await site.host(max_workers=2)
    await site.devices(process, 2)
    late = await site.device(process)
    site.clock.advance(20)
    answer = await late.ask()
    assert (answer["status"], answer["reason"], answer["timeout"]) == ("rejected", "cycle_full", 40)
    assert (await site.cycle(process))["num_assigned"] == 2


async def test_a_hundred_who_ask_at_once_get_no_more_places_than_there_are(site: Site) -> None:
    process = await site.host(max_workers=7)
    devices = [await site.device(process) for _ in range(50)]
    answers = await asyncio.gather(*(device.ask() for device in devices))
    assert Counter(answer["status"] for answer in answers) == {"accepted": 7, "rejected": 43}
    keys = [answer["request_key"] for answer in answers if answer["status"] == "accepted"]
    assert len(set(keys)) == 7
    assert (await site.cycle(process))["num_assigned"] == 7


async def test_a_cycle_ends_when_everybody_who_could_come_has_reported(site: Site) -> None:
    process = await site.host(max_workers=2, max_diffs=None)
    for device in await site.devices(process, 2):
        await device.report(0.5)
    await site.until_completed(process)


async def test_random_selection_draws_from_all_who_ask_in_a_window(site: Site) -> None:
    process = await site.host(max_workers=2, pool_selection="random", pool_window_s=0.2)
    devices = [await site.device(process) for _ in range(8)]
    answers = await asyncio.gather(*(device.ask() for device in devices))
    refused = [answer for answer in answers if answer["status"] == "rejected"]
    assert len(refused) == 6
    assert {answer["reason"] for answer in refused} == {"not_drawn"}
    assert all(answer["timeout"] >= 1 for answer in refused)


async def test_clients_of_2020_do_not_wait_for_a_long_window(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait 10 s for an answer; native clients ask for the time that they wait."""
    assert admission.PUBLISHED_WINDOW_S < 5
    monkeypatch.setattr(admission, "PUBLISHED_WINDOW_S", 0.05)
    process = await site.host(published=True, max_workers=1, max_diffs=1, pool_selection="random", pool_window_s=60)
    native, *others = [await site.device(process) for _ in range(4)]
    waiting = asyncio.create_task(native.ask())
    answers = await asyncio.gather(*(device.ask(wait_s=None) for device in others))
    assert sorted(answer["status"] for answer in answers) == ["accepted", "rejected", "rejected"]
    await turns()
    assert not waiting.done(), "the window of native clients goes on"
    waiting.cancel()


async def test_the_lot_does_not_favour_who_comes_first(site: Site) -> None:
    """30 draws of 1 in 2: by chance alone one of the two wins every one with 2^-29."""
    process = await site.host(
        max_workers=1, max_diffs=1, num_cycles=0, pool_selection="random", pool_window_s=0.01, outlier_factor=None
    )
    devices = [await site.device(process) for _ in range(2)]
    wins: set[int] = set()
    for sequence in range(1, 31):
        answers = await asyncio.gather(*(device.ask() for device in devices))
        (winner,) = [number for number, answer in enumerate(answers) if answer["status"] == "accepted"]
        wins.add(winner)
        await devices[winner].report(0.0)
        await site.until_completed(process, sequence)
        if len(wins) == 2:
            return
    raise AssertionError("the same one won every draw")


async def test_do_not_reuse_workers_until_cycle_rests_a_client(site: Site) -> None:
    process = await site.host(do_not_reuse_workers_until_cycle=2, max_diffs=1, num_cycles=5)
    tired, *others = [await site.device(process) for _ in range(3)]
    await (await tired.join()).report()
    await site.until_completed(process, 1)
    for sequence, other in enumerate(others, 2):
        answer = await tired.ask()
        assert (answer["reason"], answer["timeout"]) == ("resting", 60)
        assert "4" in answer["detail"]
        await (await other.join()).report()
        await site.until_completed(process, sequence)
    assert (await tired.ask())["cycle"] == 4


async def test_one_that_did_not_report_rests_too(site: Site) -> None:
    process = await site.host(do_not_reuse_workers_until_cycle=1, max_diffs=1)
    silent, active = await site.devices(process, 2)
    await active.report()
    await site.until_completed(process)
    assert (await silent.ask())["reason"] == "resting"


@pytest.mark.parametrize(
    ("floor", "speeds", "word"),
    [
        ({"minimum_upload_speed": 10.0}, {"upload": 9.9, "download": 100.0}, "upload"),
        ({"minimum_download_speed": 10.0}, {"upload": 100.0, "download": 9.9}, "download"),
        ({"minimum_upload_speed": 1.0, "minimum_download_speed": 10.0}, {"upload": 1.0, "download": 0.0}, "download"),
    ],
)
async def test_a_speed_floor_refuses_who_is_slower(site: Site, floor: Any, speeds: Any, word: str) -> None:
    process = await site.host(**floor)
    answer = await site.web.post("/model-centric/authenticate", json={"model_name": "digits"})
    assert answer.json()["requires_speed_test"] is True
    device = await site.device(process)
    refused = await device.ask(ping=5.0, **speeds)
    assert (refused["status"], refused["reason"]) == ("rejected", "too_slow")
    assert word in refused["detail"]
    assert refused["timeout"] >= 60
    assert (await device.ask(ping=5.0, upload=10.0, download=10.0))["status"] == "accepted"


async def test_a_speed_floor_needs_measurements(site: Site) -> None:
    process = await site.host(minimum_upload_speed=1.0)
    device = await site.device(process)
    asked = {"worker_id": device.worker_id, "model": "digits", "version": "1.0"}
    message = {**asked, "download": 5.0, "upload": 5.0, "wait_s": 0}
    problem = assert_problem(await site.web.post("/model-centric/cycle-request", json=message), 400, "speed_missing")
    assert problem["field"] == "ping"


async def test_without_a_floor_no_speed_is_asked_for(site: Site) -> None:
    await site.host()
    answer = await site.web.post("/model-centric/authenticate", json={"model_name": "digits"})
    assert answer.json()["requires_speed_test"] is False


# -- when a cycle closes -----------------------------------------------------------------------------------------------


async def test_max_diffs_closes_and_who_is_late_is_told(site: Site) -> None:
    process = await site.host(max_diffs=2)
    one, two, late = await site.devices(process, 3)
    await one.report(0.5)
    await two.report(0.5)
    assert_problem(await late.send(model(100.0)), 410, "cycle_closed")
    completed = await site.until_completed(process)
    assert completed["num_reports"] == 2
    assert_values(await site.checkpoint(process), 0.5)
    assert_problem(await late.send(model(100.0)), 410, "cycle_closed")
    got = await site.web.get("/model-centric/get-model", params={"model_id": process["id"]}, headers=bearer(late.key))
    assert_problem(got, 410, "cycle_closed")


async def test_the_deadline_closes_without_another_report(site: Site) -> None:
    process = await site.host(max_diffs=None, cycle_length=60)
    one, two, late = await site.devices(process, 3)
    await one.report(0.5)
    await two.report(0.25)
    await site.pass_time(59)
    assert (await site.cycle(process))["state"] == "open"
    await site.pass_time(2)
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.625)
    assert_problem(await late.send(model(0.5)), 410, "cycle_closed")
    assert (await site.cycle(process))["deadline_at"] == "2026-01-01T00:02:01Z"


async def test_nothing_is_accepted_after_the_deadline_even_if_the_scheduler_sleeps(site: Site) -> None:
    process = await site.host(cycle_length=60)
    one, two = await site.devices(process, 2)
    late = await site.device(process)
    await one.report(0.5)
    site.clock.advance(60)
    assert_problem(await two.send(model(0.5)), 410, "cycle_closed")
    assert (await late.ask())["reason"] in ("between_cycles", "already_assigned")


async def test_min_diffs_reopens_the_same_cycle_and_keeps_the_reports(site: Site) -> None:
    process = await site.host(min_diffs=2, max_diffs=2, max_workers=2, cycle_length=60)
    one, silent = await site.devices(process, 2)
    await one.report(0.5)
    await site.pass_time(61)

    async def reopened() -> bool:
        return (await site.cycle(process))["attempt"] == 2

    await eventually(reopened)
    cycle = await site.cycle(process)
    assert (cycle["sequence"], cycle["state"], cycle["num_reports"], cycle["num_assigned"]) == (1, "open", 1, 1)
    assert cycle["deadline_at"] == "2026-01-01T00:02:01Z"
    assert await site.num_checkpoints(process) == 1
    # The key of who did not report has ended, and its place is free; who reported has done its part.
    assert_problem(await silent.send(model(0.5)), 410, "cycle_closed")
    assert (await one.ask())["reason"] == "already_assigned"
    new = await (await site.device(process)).join()
    await new.report(0.25)
    await site.until_completed(process)
    assert_values(await site.checkpoint(process), 0.625)


async def test_one_whose_key_ended_may_join_the_reopened_cycle(site: Site) -> None:
    process = await site.host(min_diffs=1, max_diffs=1, cycle_length=60)
    (device,) = await site.devices(process, 1)
    await site.pass_time(61)

    async def rejoined() -> bool:
        return (await device.ask())["status"] == "accepted"

    await eventually(rejoined)
    assert (device.accepted["cycle"], (await site.cycle(process))["num_assigned"]) == (1, 1)
    await device.report(0.5)
    await site.until_completed(process)


async def test_without_any_limit_each_report_closes_a_cycle(site: Site) -> None:
    process = await site.host(cycle_length=None, max_diffs=None, num_cycles=2)
    (device,) = await site.devices(process, 1)
    assert device.accepted["deadline_s"] is None
    await device.report(0.5)
    await site.until_completed(process)


async def test_without_a_deadline_the_hint_is_some_seconds(site: Site) -> None:
    process = await site.host(cycle_length=None, max_workers=1, max_diffs=None, published=True)
    await site.devices(process, 1)
    late = await site.device(process)
    assert await late.ask(wait_s=None) == {"status": "rejected", "timeout": 5}


async def test_num_cycles_ends_training(site: Site) -> None:
    process = await site.host(num_cycles=2, max_diffs=1, published=True)
    (device,) = await site.devices(process, 1)
    await device.report(0.5)
    await site.until_completed(process, 1)
    await (await device.join()).report(0.25)
    await site.until_completed(process, 2)
    shown = (await site.web.get(f"/model-centric/processes/{process['id']}", headers=site.owner)).json()
    assert (shown["state"], shown["num_checkpoints"], len(await site.cycles(process))) == ("finished", 3, 2)
    assert_values(await site.checkpoint(process), 0.25)
    # No timeout: training is over.
    assert await device.ask(wait_s=None) == {"status": "rejected"}
    answer = await asyncio.wait_for(device.ask(wait_s=60), 60)
    assert (answer["reason"], "timeout" in answer) == ("training_finished", False)


async def test_who_waits_hears_that_training_is_over(site: Site) -> None:
    process = await site.host(num_cycles=1, max_diffs=1, max_workers=1)
    (device,) = await site.devices(process, 1)
    waiting = await Waiting(site, await site.device(process)).held()
    await device.report()
    assert (await waiting.answer())["reason"] == "training_finished"


async def test_who_waits_gets_into_the_next_cycle(site: Site) -> None:
    process = await site.host(max_workers=1, max_diffs=1)
    (device,) = await site.devices(process, 1)
    waiting = await Waiting(site, await site.device(process)).held()
    await device.report()
    answer = await waiting.answer()
    assert (answer["status"], answer["cycle"]) == ("accepted", 2)


async def test_waiting_ends_with_its_time(site: Site) -> None:
    process = await site.host(max_workers=1, max_diffs=1)
    await site.devices(process, 1)
    late = await site.device(process)
    started = asyncio.get_running_loop().time()
    assert (await late.ask(wait_s=0.2))["reason"] == "cycle_full"
    assert asyncio.get_running_loop().time() - started >= 0.2


# -- how a mean becomes a checkpoint -----------------------------------------------------------------------------------


async def _run(site: Site, process: dict[str, Any], *values: float) -> None:
    """One cycle of one report for each value."""
    sequence = (await site.cycle(process))["sequence"]
    for value in values:
        await (await (await site.device(process)).join()).report(value)
    await site.until_completed(process, sequence)


async def test_a_learning_rate_scales_the_step(site: Site) -> None:
    process = await site.host(server_optimizer={"name": "sgd", "learning_rate": 0.5})
    await _run(site, process, 0.5, 0.25)
    assert_values(await site.checkpoint(process), 1 - 0.5 * 0.375)


async def test_momentum_is_kept_between_cycles(site: Site) -> None:
    process = await site.host(max_diffs=1, server_optimizer={"name": "momentum", "momentum": 0.5})
    await _run(site, process, 0.5)
    await _run(site, process, 0.25)
    # m1 = 0.5; m2 = 0.5 * 0.5 + 0.25
    assert_values(await site.checkpoint(process), 1 - 0.5 - 0.5)


@pytest.mark.parametrize("name", ["adagrad", "adam", "yogi"])
async def test_adaptive_optimizers_keep_both_moments(site: Site, name: str) -> None:
    """Two cycles against the formulas of Reddi et al. (2021), algorithm 2, on one number."""
    lr, b1, b2, tau = 0.1, 0.9, 0.99, 1e-3
    process = await site.host(max_diffs=1, server_optimizer={"name": name, "learning_rate": lr})
    x, m, v = 1.0, 0.0, tau**2
    for d in (0.5, 0.25):
        await _run(site, process, d)
        m = b1 * m + (1 - b1) * d
        v = {
            "adagrad": v + d**2,
            "adam": b2 * v + (1 - b2) * d**2,
            "yogi": v - (1 - b2) * d**2 * np.sign(v - d**2),
        }[name]
        x -= lr * m / (v**0.5 + tau)
    for array in (await site.checkpoint(process)).values():
        # Moments are kept as float32: a few units in the last place.
        np.testing.assert_allclose(array, x, rtol=1e-6)


# -- outliers ----------------------------------------------------------------------------------------------------------


async def test_an_outlier_is_clipped_and_flagged(site: Site) -> None:
    """Norms are in proportion 1 : 1 : 1 : 50, the median is that of an honest one, so the last counts 4 times
    as much.
    """
    process = await site.host(max_diffs=4, outlier_factor=4.0)
    await _run(site, process, 0.25, 0.25, 0.25, -50 * 0.25)
    (completed,) = [c for c in await site.cycles(process) if c["state"] == "completed"]
    assert (completed["num_reports"], completed["num_clipped"]) == (4, 1)
    for array in (await site.checkpoint(process)).values():
        np.testing.assert_allclose(array, 1 - (3 * 0.25 - 4 * 0.25) / 4, rtol=1e-6)


async def test_an_outlier_is_held_to_the_norms_of_earlier_cycles(site: Site) -> None:
    process = await site.host(max_diffs=3, num_cycles=3)
    await _run(site, process, 0.25, 0.25, 0.25)
    await _run(site, process, 0.25, -12.5, -12.5)
    first, second, _ = await site.cycles(process)
    assert (first["num_clipped"], second["num_clipped"]) == (0, 2)
    for array in (await site.checkpoint(process)).values():
        np.testing.assert_allclose(array, 0.75 - (0.25 - 0.5 - 0.5) / 3, rtol=1e-6)


async def test_null_leaves_outliers_alone(site: Site) -> None:
    process = await site.host(max_diffs=4, outlier_factor=None)
    await _run(site, process, 0.25, 0.25, 0.25, -12.25)
    (completed,) = [c for c in await site.cycles(process) if c["state"] == "completed"]
    assert completed["num_clipped"] == 0
    assert_values(await site.checkpoint(process), 1 + 11.5 / 4)


async def test_honest_reports_are_never_touched(site: Site) -> None:
    process = await site.host(max_diffs=4)
    await _run(site, process, 0.5, 0.25, 0.75, -0.5)
    (completed,) = [c for c in await site.cycles(process) if c["state"] == "completed"]
    assert completed["num_clipped"] == 0
    assert_values(await site.checkpoint(process), 1 - 0.25)


async def test_reports_of_nothing_do_not_silence_the_others(site: Site) -> None:
    """Most clients had nothing to learn from: their norms of 0 are no measure for the others."""
    process = await site.host(max_diffs=4)
    await _run(site, process, 0.0, 0.0, 0.0, 1.0)
    assert_values(await site.checkpoint(process), 0.75)


# -- two processes -----------------------------------------------------------------------------------------------------


async def test_processes_do_not_see_each_other(site: Site) -> None:
    one = await site.host(name="one", max_diffs=1)
    two = await site.host(name="two", max_diffs=1)
    device = await site.device(one)
    asked = {"worker_id": device.worker_id, "model": "two", "version": "1.0", "wait_s": 0}
    assert_problem(await site.web.post("/model-centric/cycle-request", json=asked), 404, "worker_not_found")
    await (await device.join()).report(0.5)
    other: Device = await (await site.device(two)).join()
    got = await site.web.get("/model-centric/get-model", params={"model_id": one["id"]}, headers=bearer(other.key))
    assert_problem(got, 404, "model_not_found")
    plan_id = one["plans"][0]["id"]
    got = await site.web.get("/model-centric/get-plan", params={"plan_id": plan_id}, headers=bearer(other.key))
    assert_problem(got, 404, "plan_not_found")
    await site.until_completed(one)
    assert_values(await site.checkpoint(two), 1.0)
    assert (await other.send(encode(model(0.25)))).status_code == 200


# -- values that change from cycle to cycle ----------------------------------------------------------------------------


async def test_devices_get_the_values_of_their_cycle(site: Site) -> None:
    schedules = {"epochs": [3, 2], "server_optimizer.learning_rate": [1.0, 0.5]}
    process = await site.host(max_diffs=1, num_cycles=3, schedules=schedules)
    expected = 1.0
    for sequence, (epochs, rate) in enumerate(((3, 1.0), (2, 0.5), (2, 0.5)), 1):
        (device,) = await site.devices(process, 1)
        assert device.accepted["client_config"]["epochs"] == epochs
        await device.report(0.25)
        completed = await site.until_completed(process, sequence)
        assert completed["scheduled"] == {"epochs": epochs, "server_optimizer.learning_rate": rate}
        expected -= rate * 0.25
        assert_values(await site.checkpoint(process), expected)
    assert "epochs" not in process["client_config"], "what was hosted stays as it was sent"


async def test_a_schedule_is_compared_with_the_plan(site: Site) -> None:
    parts = form(config(schedules={"lr": 0.2, "learning_rate": 0.1, "epochs": [0]}), encode(model()))
    problem = assert_problem(await site.try_host(parts), 400, "invalid_config")
    assert [fault["field"] for fault in problem["faults"]] == ["schedules.lr", "schedules.learning_rate"]
    assert "in client_config, too" in problem["faults"][0]["detail"]
    assert "did you mean 'lr'?" in problem["faults"][1]["detail"]
