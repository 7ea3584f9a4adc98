"""Hashing of passwords: what is accepted, and that it stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import argon2
import pytest
from argon2.exceptions import VerifyMismatchError

from pygrid.errors import TooManyRequests
from pygrid.features.accounts.passwords import MAX_WAITING, NUM_THREADS, Passwords
from support import shared_work


@pytest.fixture
def passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passwords]:
    for name, value in shared_work.PASSWORD_COST.items():
        monkeypatch.setattr(f"pygrid.features.accounts.passwords.{name}", value)
    made = Passwords()
    yield made
    made.close()


async def test_the_right_password_and_no_other(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify("correct horse", stored)
    assert not await passwords.verify("correct horsf", stored)
    assert not await passwords.verify("", stored)
    assert stored != await passwords.hash("correct horse"), "salted"


async def test_a_damaged_hash_accepts_nothing(passwords: Passwords) -> None:
    assert not await passwords.verify("x", "$argon2id$nonsense")


@pytest.mark.parametrize("wrong", ["wrong", "e\u0301"], ids=["NFC", "not NFC"])
async def test_an_account_that_is_not_there_costs_as_much_as_one_that_is(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """The same hashes are computed, with the same parameters, and to their end: no time is measured."""
    computed: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def watched(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        with pytest.raises(VerifyMismatchError) as mismatch:  # another error would be raised before anything is hashed
            verify(self, stored, password)
        computed.append(argon2.extract_parameters(stored))
        raise mismatch.value

    stored = await passwords.hash("right")
    monkeypatch.setattr(argon2.PasswordHasher, "verify", watched)
    assert not await passwords.verify(wrong, stored)
    there, computed = computed, []
    assert not await passwords.verify(wrong, None)
    assert len(there) == (1 if wrong == "wrong" else 2)
    assert computed == there


async def test_what_does_not_fit_the_queue_is_put_off(passwords: Passwords) -> None:
    room = NUM_THREADS + MAX_WAITING
    outcomes = await asyncio.gather(*(passwords.verify("x", None) for _ in range(room + 6)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, TooManyRequests)]
    assert outcomes.count(False) == room
    assert [error.code for error in refused] == ["busy"] * 6
    assert not await passwords.verify("x", None), "room again"
