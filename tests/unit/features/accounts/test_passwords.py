"""Hashing of passwords: what is accepted, and that it stays bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from pygrid.errors import TooManyRequests
from pygrid.features.accounts.passwords import MAX_WAITING, NUM_THREADS, Passwords


@pytest.fixture
def passwords() -> Iterator[Passwords]:
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


async def test_an_account_that_is_not_there_costs_as_much_as_one_that_is(passwords: Passwords) -> None:
    """The least of several times is compared, for a busy machine only adds; a skipped hash would take a thousandth."""

    async def least_s(stored: str | None) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert not await passwords.verify("wrong", stored)
            times.append(time.perf_counter() - start)
        return min(times)

    there, not_there = await least_s(await passwords.hash("right")), await least_s(None)
    assert 0.4 < not_there / there < 2.5


async def test_what_does_not_fit_the_queue_is_put_off(passwords: Passwords) -> None:
    room = NUM_THREADS + MAX_WAITING
    outcomes = await asyncio.gather(*(passwords.verify("x", None) for _ in range(room + 6)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, TooManyRequests)]
    assert outcomes.count(False) == room
    assert [error.code for error in refused] == ["busy"] * 6
    assert not await passwords.verify("x", None), "room again"
