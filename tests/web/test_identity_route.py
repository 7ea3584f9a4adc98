"""Who a Domain is, as it tells anybody."""

from __future__ import annotations

import secrets

import pytest

import pygrid
from pygrid.domain import build_domain
from pygrid.messages.identity import from_base64url, to_base64url
from pygrid.settings import load_settings
from pygrid.transport.identity import IdentityKey
from support.web import assert_problem, running


async def test_a_domain_proves_who_it_is_and_stays_that(tmp_path):
    settings = load_settings({}, data_dir=tmp_path, id="hospital-ä")
    keys = []
    for _ in range(2):
        async with running(build_domain(settings)) as web:
            nonce = secrets.token_bytes(32)
            answer = (await web.get("/identity", params={"nonce": to_base64url(nonce)})).json()
            assert answer.keys() == {"name", "identity", "version", "app", "signature"}
            assert answer["app"] == "domain"
            assert (answer["name"], answer["version"]) == ("hospital-ä", pygrid.__version__)
            signature = from_base64url(answer["signature"], 64, "signature")
            key = IdentityKey.parse(answer["identity"])
            assert key.verify(signature, "identity", nonce, "hospital-ä".encode())
            assert not key.verify(signature, "identity", secrets.token_bytes(32), "hospital-ä".encode())
            keys.append(key)
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    "nonce", ["", "AAAA", "A" * 44, "A" * 42 + "B", "A" * 42 + "=", "+" * 43, "ä" * 43, "A" * 10_000]
)
async def test_what_is_no_nonce_is_not_signed(tmp_path, nonce):
    async with running(build_domain(load_settings({}, data_dir=tmp_path))) as web:
        assert_problem(await web.get("/identity", params={"nonce": nonce}), 400, "invalid_base64url")


async def test_people_see_who_it_is_without_a_nonce(tmp_path):
    async with running(build_domain(load_settings({}, data_dir=tmp_path, id="alice"))) as web:
        told = (await web.get("/identity")).json()
        assert (told["name"], told["app"], told["signature"]) == ("alice", "domain", None)
        IdentityKey.parse(told["identity"])
