"""Hosting a process over HTTP.

Should happen: who may upload hosts; the process, its cycle, its first checkpoint and its plans are there at once.
Should not happen: a refusal stores anything; two processes of one name and version; a plan that does not fit its model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from litestar import Litestar

from pygrid.domain import build_domain
from pygrid.features.processes import forms
from pygrid.settings import DomainSettings, load_settings
from pygrid.tensors import decode, encode
from support.plans.handmade import logistic_plan
from support.training import PLAN, Form, Site, assert_values, config, form, model, wide_plan
from support.web import People, assert_problem


async def _assert_nothing_stored(site: Site) -> None:
    answer = await site.web.get("/model-centric/processes", headers=site.owner)
    assert answer.json() == {"processes": []}
    assert site.partial_files() == []
    assert [path.name for path in (site.folder / "blobs").iterdir() if path.is_file()] == []


# -- what comes of it --------------------------------------------------------------------------------------------------


async def test_a_process_is_there_once_it_is_hosted(site: Site) -> None:
    process = await site.host(cycle_length=None, num_cycles=7)
    assert (process["name"], process["version"], process["state"]) == ("digits", "1.0", "active")
    assert (process["num_parameters"], process["model_bytes"], process["num_checkpoints"]) == (
        15,
        len(encode(model())),
        1,
    )
    assert process["client_config"] == {"name": "digits", "version": "1.0", "lr": 0.1, "batch_size": 8}
    shown = process["server_config"]
    assert (shown["num_cycles"], shown["cycle_length"], shown["pool_selection"]) == (7, None, "iterate")
    assert shown["server_optimizer"] == {"name": "sgd", "learning_rate": 1.0}
    (plan,) = process["plans"]
    assert (plan["name"], plan["kind"], plan["size_bytes"]) == ("training_plan", "training", len(PLAN))
    cycle = process["cycle"]
    assert (cycle["sequence"], cycle["state"], cycle["checkpoint"], cycle["num_reports"]) == (1, "open", 1, 0)
    assert_values(await site.checkpoint(process), 1.0)


async def test_several_plans_are_hosted_by_name(site: Site) -> None:
    other = logistic_plan(momentum=0.5).data
    process = await site.host(plans={"training_plan": PLAN, "second": other, "model": PLAN})
    assert [plan["name"] for plan in process["plans"]] == ["training_plan", "second", "model"]
    (device,) = await site.devices(process, 1)
    assert set(device.accepted["plans"]) == {"training_plan", "second", "model"}


async def test_the_order_of_the_parts_is_free(site: Site) -> None:
    """Also of a plan that has the name of another part."""
    parts = form(config(), encode(model()), {"config": PLAN, "model": PLAN})
    answer = await site.try_host(list(reversed(parts)))
    assert answer.status_code == 201, answer.text


async def test_versions_of_one_name_stand_side_by_side(site: Site) -> None:
    first, second = await site.host(version="1"), await site.host(version="2", start=model(2.0))
    assert first["id"] != second["id"]
    answer = await site.web.get("/model-centric/processes", params={"name": "digits"}, headers=site.owner)
    assert [process["version"] for process in answer.json()["processes"]] == ["2", "1"]


@pytest.mark.slow
async def test_the_gate_stands_in_a_process_of_its_own(
    domain: Litestar, web: httpx.AsyncClient, people: People
) -> None:
    """As the other tests here do not have it: the whole way, with the gate's child process."""
    owner = await people.owner()
    parts = form(config(), encode(model()))
    assert (await web.post("/model-centric/host-training", files=parts, headers=owner)).status_code == 201
    parts = form(config(version="2"), encode(model()), {"training_plan": b"PK\x03\x04 no plan"})
    assert_problem(await web.post("/model-centric/host-training", files=parts, headers=owner), 400, "plan_malformed")


# -- who ---------------------------------------------------------------------------------------------------------------


async def test_hosting_needs_a_permission(site: Site) -> None:
    parts = form(config(), encode(model()))
    assert_problem(await site.try_host(parts, headers={}), 401, "unauthenticated")
    assert_problem(
        await site.try_host(parts, headers={"Authorization": "Bearer " + "0" * 64}), 401, "invalid_credentials"
    )
    people = People(site.web)
    await people.sign_up("user@example.org")
    user = await people.log_in("user@example.org")
    assert (
        assert_problem(await site.try_host(parts, headers=user), 403, "not_permitted")["permission"]
        == "can_host_models"
    )
    await _assert_nothing_stored(site)
    officer = await people.with_role(2, site.owner)
    expected = (await site.web.get("/roles/2", headers=site.owner)).json()["role"]["can_host_models"]
    assert (await site.try_host(parts, headers=officer)).status_code == (201 if expected else 403)


async def test_looking_needs_an_account_and_finishing_more(site: Site) -> None:
    process = await site.host()
    people = People(site.web)
    await people.sign_up("user@example.org")
    user = await people.log_in("user@example.org")
    base = f"/model-centric/processes/{process['id']}"
    looks = [
        "/model-centric/processes",
        base,
        f"{base}/cycles",
        f"{base}/checkpoints",
        f"{base}/plans/{process['plans'][0]['id']}",
        "/model-centric/retrieve-model?name=digits",
    ]
    for path in looks:
        assert_problem(await site.web.get(path), 401, "unauthenticated")
        assert (await site.web.get(path, headers=user)).status_code == 200, path
    assert_problem(await site.web.get(f"{base}/events"), 401, "unauthenticated")
    assert_problem(await site.web.post(f"{base}/finish"), 401, "unauthenticated")
    assert_problem(await site.web.post(f"{base}/finish", headers=user), 403, "not_permitted")
    assert (await site.cycle(process))["state"] == "open"


async def test_in_the_open_mode_of_2020_nobody_needs_an_account_to_host(site: Site, settings: DomainSettings) -> None:
    """Only hosting and downloading; all else still asks who it is."""
    from support.web import running

    opened = load_settings({}, data_dir=settings.data_dir.with_name("open"), id="test", legacy_open=True)
    async with running(build_domain(opened)) as web:
        answer = await web.post("/model-centric/host-training", files=form(config(), encode(model())))
        assert answer.status_code == 201, answer.text
        got = await web.get("/model-centric/retrieve-model", params={"name": "digits"})
        assert_values(decode(got.content)[0], 1.0)
        for path in ("/model-centric/processes", f"/model-centric/processes/{answer.json()['id']}"):
            assert_problem(await web.get(path), 401, "unauthenticated")
        finish = f"/model-centric/processes/{answer.json()['id']}/finish"
        assert_problem(await web.post(finish), 401, "unauthenticated")
        people = People(web)
        owner = await people.owner()
        administrator = await people.with_role(3, owner)
        assert_problem(await web.post(finish, headers=administrator), 403, "not_your_process")
        assert (await web.post(finish, headers=owner)).status_code == 200


# -- names are taken once ----------------------------------------------------------------------------------------------


async def test_of_many_who_host_one_name_at_once_one_wins(site: Site) -> None:
    parts = form(config(), encode(model()))
    answers = await asyncio.gather(*(site.try_host(parts) for _ in range(8)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 7}
    for answer in answers:
        if answer.status_code == 409:
            assert_problem(answer, 409, "process_exists")
    listed = (await site.web.get("/model-centric/processes", headers=site.owner)).json()["processes"]
    assert len(listed) == 1
    assert len(await site.cycles(listed[0])) == 1
    assert site.partial_files() == []


async def test_a_name_that_is_taken_is_refused_before_anything_is_stored(site: Site) -> None:
    await site.host()
    before = {path.name for path in (site.folder / "blobs").iterdir()}
    answer = await site.try_host(
        form(config(), encode(model(5.0)), {"training_plan": logistic_plan(momentum=0.1).data})
    )
    assert_problem(answer, 409, "process_exists")
    assert {path.name for path in (site.folder / "blobs").iterdir()} == before


async def test_the_configurations_of_2020_are_taken(site: Site) -> None:
    """All fields of the published interface, as its tutorials send them."""
    parts = form(
        {
            "client_config": {
                "name": "mnist",
                "version": "1.0",
                "batch_size": 64,
                "lr": 0.005,
                "max_updates": 100,
                "max_epochs": 1,
            },
            "server_config": {
                "min_workers": 5,
                "max_workers": 5,
                "pool_selection": "random",
                "do_not_reuse_workers_until_cycle": 6,
                "cycle_length": 28800,
                "num_cycles": 30,
                "max_diffs": 1,
                "min_diffs": None,
                "minimum_upload_speed": 0,
                "minimum_download_speed": 0,
                "iterative_plan": False,
                "authentication": {"type": "jwt", "secret": "s" * 32},
            },
        },
        _MODEL,
    )
    answer = await site.try_host(parts)
    assert answer.status_code == 201, answer.text


async def test_faults_of_both_configurations_are_told_at_once(site: Site) -> None:
    given = config(max_worker=3, num_cycles=-1)
    given["client_config"]["epochs"] = 0
    answer = await site.try_host(form(given, _MODEL))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_config")
    assert [fault["field"] for fault in answer.json()["faults"]] == ["epochs", "max_worker", "num_cycles"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def _spoilt(value: float) -> bytes:
    arrays = model()
    arrays["weight"][1, 1] = value
    return encode(arrays)


def _without(name: str) -> dict[str, Any]:
    given = config()
    given["server_config"].pop(name)
    return given


def _named(**changes: Any) -> dict[str, Any]:
    given = config()
    given["client_config"].update(changes)
    return given


_MODEL = encode(model())

REFUSED: dict[str, tuple[str, Callable[[], Form]]] = {
    "no model": ("invalid_form", lambda: [part for part in form(config(), _MODEL) if part[0] != "model"]),
    "no config": ("invalid_form", lambda: [part for part in form(config(), _MODEL) if part[0] != "config"]),
    "no plan": ("invalid_form", lambda: form(config(), _MODEL, {})),
    "an unknown part": ("invalid_form", lambda: [*form(config(), _MODEL), ("more", ("more", b"x", "text/plain"))]),
    "a plan without a name": ("invalid_form", lambda: form(config(), _MODEL, {"": PLAN})),
    "a plan with a name for a terminal": ("invalid_form", lambda: form(config(), _MODEL, {"a\x1b[2Jb": PLAN})),
    "a plan with a name of a path": ("invalid_form", lambda: form(config(), _MODEL, {"../up": PLAN})),
    "a plan with a very long name": ("invalid_form", lambda: form(config(), _MODEL, {"x" * 300: PLAN})),
    "a plan twice": ("invalid_form", lambda: [*form(config(), _MODEL), form(config(), _MODEL)[-1]]),
    "a model twice": ("invalid_form", lambda: [*form(config(), _MODEL), form(config(), _MODEL)[1]]),
    "a config twice": ("invalid_form", lambda: [*form(config(), _MODEL), form(config(), _MODEL)[0]]),
    "seventeen plans": ("invalid_form", lambda: form(config(), _MODEL, {f"plan_{n}": PLAN for n in range(17)})),
    "a config that is no JSON": ("invalid_config", lambda: form(b"{", _MODEL)),
    "a config that is a list": ("invalid_config", lambda: form(b"[]", _MODEL)),
    "a config with nothing": ("invalid_config", lambda: form(b"{}", _MODEL)),
    "a config nested deeply": (
        "invalid_config",
        lambda: form(
            b'{"server_config":{"cycle_length":1},"client_config":{"name":"n","version":"1","x":'
            + b"[" * 900
            + b"]" * 900
            + b"}}",
            _MODEL,
        ),
    ),
    "a config nested without end": ("invalid_config", lambda: form(b'{"client_config":{"x":' + b"[" * 100_000, _MODEL)),
    "no cycle_length": ("invalid_config", lambda: form(_without("cycle_length"), _MODEL)),
    "an unknown field": ("invalid_config", lambda: form(config(max_worker=3), _MODEL)),
    "a negative count": ("invalid_config", lambda: form(config(max_workers=-1), _MODEL)),
    "a contradiction": ("invalid_config", lambda: form(config(min_diffs=3, max_diffs=2), _MODEL)),
    "a field without an effect": (
        "invalid_config",
        lambda: form(config(server_optimizer={"name": "sgd", "momentum": 0.9}), _MODEL),
    ),
    "an iterative plan that is missing": ("invalid_config", lambda: form(config(iterative_plan=True), _MODEL)),
    "a rate under another name": ("invalid_config", lambda: form(_named(learning_rate=0.1), _MODEL)),
    "a rate out of the plan's range": ("invalid_config", lambda: form(_named(lr=1e9), _MODEL)),
    "a batch above the plan's": ("invalid_config", lambda: form(_named(batch_size=10**6), _MODEL)),
    "no name": ("invalid_config", lambda: form(_named(name=""), _MODEL)),
    "a name that is a number": ("invalid_config", lambda: form(_named(name=5), _MODEL)),
    "a name that cannot be printed": ("invalid_config", lambda: form(_named(name="a\0b"), _MODEL)),
    "a version too long": ("invalid_config", lambda: form(_named(version="1" * 201), _MODEL)),
    "too much client_config": ("invalid_config", lambda: form(_named(notes="x" * 70_000), _MODEL)),
    "a model that is none": ("invalid_tensors", lambda: form(config(), b"no tensors at all")),
    "an empty model": ("invalid_tensors", lambda: form(config(), encode({}))),
    "a model cut off": ("invalid_tensors", lambda: form(config(), _MODEL[:-4])),
    "a model too long": ("invalid_tensors", lambda: form(config(), _MODEL + b"\0\0\0\0")),
    "a model of float64": (
        "invalid_tensors",
        lambda: form(config(), encode({name: array.astype(np.float64) for name, array in model().items()})),
    ),
    "a model with NaN": ("non_finite", lambda: form(config(), _spoilt(np.nan))),
    "a model with infinity": ("non_finite", lambda: form(config(), _spoilt(np.inf))),
    "a plan that is none": ("plan_malformed", lambda: form(config(), _MODEL, {"training_plan": b"no plan"})),
    "a plan for another model": ("shape_mismatch", lambda: form(config(), _MODEL, {"training_plan": wide_plan(5)})),
    "a model with more arrays": (
        "shape_mismatch",
        lambda: form(config(), encode({**model(), "more": np.zeros(1, np.float32)})),
    ),
    "a model with fewer arrays": ("shape_mismatch", lambda: form(config(), encode({"bias": model()["bias"]}))),
    "a training plan for averaging": ("plan_kind", lambda: form(config(), _MODEL, averaging_plan=PLAN)),
}


async def test_a_form_that_is_refused_stores_nothing(site: Site, subtests: pytest.Subtests) -> None:
    for name, (code, make) in REFUSED.items():
        with subtests.test(name):
            assert_problem(await site.try_host(make()), 400, code)
            await _assert_nothing_stored(site)
    assert (await site.try_host(form(config(), _MODEL))).status_code == 201


async def test_parts_over_their_limit_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MAX_MODEL_BYTES", len(_MODEL) - 1)
    assert_problem(await site.try_host(form(config(), _MODEL)), 413, "payload_too_large")
    monkeypatch.undo()
    padded = form(b" " * forms.MAX_CONFIG_BYTES + b"{}", _MODEL)
    assert_problem(await site.try_host(padded), 413, "payload_too_large")
    padded = form(config(), _MODEL, {"training_plan": b"x" * (forms.MAX_PLAN_BYTES + 1)})
    assert_problem(await site.try_host(padded), 413, "payload_too_large")


BODIES: dict[str, tuple[str, bytes]] = {
    "JSON": ("application/json", b"{}"),
    "nothing": ("", b""),
    "no boundary": ("multipart/form-data", b"--x\r\n"),
    "an empty form": ("multipart/form-data; boundary=x", b"--x--\r\n"),
    "another boundary": (
        "multipart/form-data; boundary=y",
        b"--x\r\nContent-Disposition: form-data; name=config\r\n\r\n{}\r\n--x--",
    ),
    "cut off in a part": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="config"\r\n\r\n{',
    ),
    "cut off in a head": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-"),
    "a part without a name": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n{}\r\n--x--\r\n",
    ),
    "a head without end": ("multipart/form-data; boundary=x", b"--x\r\nX: " + b"a" * 100_000),
    "no form at all": ("multipart/form-data; boundary=x", b"x" * 5000),
}


async def test_a_body_that_is_no_form_is_refused(site: Site, subtests: pytest.Subtests) -> None:
    for name, (kind, body) in BODIES.items():
        with subtests.test(name):
            headers = {**site.owner, "Content-Type": kind}
            answer = await site.web.post("/model-centric/host-training", content=body, headers=headers)
            # JSON, also without a content type, is how model owners of 2020 host.
            code = {"JSON": "missing_field", "nothing": "invalid_json"}.get(name, "invalid_form")
            assert_problem(answer, 400, code)
            await _assert_nothing_stored(site)


async def test_an_upload_that_is_cut_off_leaves_nothing(site: Site) -> None:
    request = site.web.build_request(
        "POST", "/model-centric/host-training", files=form(config(), _MODEL), headers=site.owner
    )
    whole = b"".join([piece async for piece in request.stream])  # type: ignore[union-attr]
    middle = whole.index(b"safetensors") if b"safetensors" in whole else len(whole) // 3
    reached = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield whole[:middle]
        reached.set()
        await asyncio.Event().wait()

    headers = {**site.owner, "Content-Type": request.headers["content-type"]}
    upload = asyncio.create_task(site.web.post("/model-centric/host-training", content=hanging(), headers=headers))
    await reached.wait()  # the Domain asks for the next piece, so it has read this one
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    await _assert_nothing_stored(site)
