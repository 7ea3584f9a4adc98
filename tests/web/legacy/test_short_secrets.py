"""Secrets that can be guessed, on both databases: of the tokens of devices, and of the Domain.

Should happen: a secret of 32 bytes checks tokens; a shorter one is refused with the name of its field, or, where the
operator opened the interface of 2020, it is accepted and checks tokens as in 2020.
Should not happen: a short secret hosts a process without the operator's consent; the error repeats the secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest

from pygrid.domain import build_domain
from pygrid.errors import InvalidConfig
from pygrid.settings import load_settings
from pygrid.tensors import encode
from support.pysyft import message
from support.training import PLAN, config, form, gate_in_process, model
from support.web import People, assert_problem, running

HOST = "/model-centric/host-training"
SHORT = ["", "a", "x" * 31, "\u20ac" * 10]
"""The last one has 30 bytes."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("pygrid.features.processes.hosting.check_async", gate_in_process)
    found: dict[str, Any] = {"data_dir": tmp_path / "data", "id": "test"}
    if request.param == "postgresql":
        found["database_url"] = request.getfixturevalue("postgres_url")
    return found


def token(secret: str) -> str:
    """A token as a client of 2020 signs it, whose library accepts any secret."""
    key = secret.encode()
    return jwt.api_jws.encode(b'{"sub": "one"}', key + b"\0" * (64 - len(key)), "HS256")


async def test_a_short_secret_hosts_nothing(database: dict[str, Any]) -> None:
    async with running(build_domain(load_settings({}, **database))) as web:
        owner = await People(web).owner()
        for secret in SHORT:
            authentication = {"secret": secret}
            if secret:
                found = await web.post(HOST, json=message(authentication=authentication), headers=owner)
                problem = assert_problem(found, 400, "invalid_config")
                assert "authentication.secret must have at least 32 bytes" in problem["error"]
                assert f"'{secret}'" not in found.text
            native = form(config(authentication=authentication), encode(model()))
            problem = assert_problem(await web.post(HOST, files=native, headers=owner), 400, "invalid_config")
            assert "authentication.secret must have at least 32 bytes" in problem["detail"]
            files = {"model": encode(model()).hex(), "plans": {"training_plan": PLAN.hex()}}
            as_text = await web.post(HOST, json={**files, **config(authentication=authentication)}, headers=owner)
            assert_problem(as_text, 400, "invalid_config")
        assert (await web.get("/model-centric/processes", headers=owner)).json()["processes"] == []


@pytest.mark.parametrize("secret", ["abc", "x" * 32, "x" * 33 + "\u20ac"])
async def test_secrets_check_tokens(database: dict[str, Any], secret: str) -> None:
    is_open = len(secret) < 32
    settings = load_settings({}, legacy_open=is_open, **database)
    for is_restart in (False, True):
        async with running(build_domain(settings)) as web:
            if not is_restart:
                owner = await People(web).owner()
                hosted = await web.post(HOST, json=message(authentication={"secret": secret}), headers=owner)
                assert hosted.status_code == 201, hosted.text
            for sent, status in ((secret, 200), (secret + "x", 400), ("", 400)):
                body = {"model_name": "of-2020", "auth_token": token(sent)}
                assert (await web.post("/model-centric/authenticate", json=body)).status_code == status, sent


@pytest.mark.parametrize("secret", ["x", "x" * 31, "justasecretkeythatishouldputhere"])
def test_a_short_key_starts_no_domain(database: dict[str, Any], secret: str) -> None:
    with pytest.raises(InvalidConfig, match="SECRET_KEY is too short or publicly known") as refused:
        load_settings({"SECRET_KEY": secret}, **database)
    assert refused.value.code == "secret_key_short"
    assert not database["data_dir"].exists()
