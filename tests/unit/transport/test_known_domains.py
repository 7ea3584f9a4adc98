"""Who a Domain behind a Network is, as far as this user knows.

Should happen: the first one is kept; the same one is let through; an identity in the address decides, and is kept.
Should not: another one let through, a damaged file taken for an empty one, an entry lost when processes write at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from pygrid.errors import IdentityChanged, InvalidConfig, InvalidInput
from pygrid.transport.address import RelayedAddress
from pygrid.transport.identity import Identity
from pygrid.transport.known_domains import KnownDomains

HERE = RelayedAddress("http://127.0.0.1:7000", "hospital-a")
THERE = RelayedAddress("http://127.0.0.1:7000", "hospital-b")
FIRST, SECOND = Identity.make().key, Identity.make().key


def pinned(key):
    return RelayedAddress(HERE.network_url, HERE.domain, key)


@pytest.fixture
def known(tmp_path):
    return KnownDomains(tmp_path / "pygrid" / "known_domains.json")


def test_the_first_is_trusted_and_kept(known):
    assert known.find(HERE) is None
    known.check(HERE, FIRST)
    known.check(HERE, FIRST)
    known.check(THERE, SECOND)
    assert (known.find(HERE), known.find(THERE)) == (FIRST, SECOND)
    assert os.stat(known.path).st_mode & 0o777 == 0o600
    assert json.loads(known.path.read_text()) == {"domains": {str(HERE): str(FIRST), str(THERE): str(SECOND)}}


def test_another_is_refused_with_all_that_one_needs_to_decide(known):
    known.check(HERE, FIRST)
    for _ in range(2):
        with pytest.raises(IdentityChanged) as refused:
            known.check(HERE, SECOND)
    assert refused.value.code == "identity_changed"
    assert refused.value.fields == {"known": str(FIRST), "seen": str(SECOND)}
    for part in (str(HERE), str(FIRST), str(SECOND), str(known.path), f"{HERE}?identity={SECOND}"):
        assert part in refused.value.detail
    assert known.find(HERE) == FIRST


def test_the_address_can_say_who_must_answer(known):
    known.check(pinned(FIRST), FIRST)
    assert known.find(HERE) == FIRST
    with pytest.raises(IdentityChanged) as refused:
        known.check(pinned(FIRST), SECOND)
    assert refused.value.code == "wrong_identity"
    assert (refused.value.fields["wanted"], refused.value.fields["seen"]) == (str(FIRST), str(SECOND))
    # What the message of a changed identity advises.
    known.check(pinned(SECOND), SECOND)
    known.check(HERE, SECOND)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"domains": {"x": 1}}'])
def test_a_damaged_file_is_not_taken_for_an_empty_one(known, content):
    known.path.parent.mkdir()
    known.path.write_text(content)
    with pytest.raises(InvalidInput) as refused:
        known.check(HERE, FIRST)
    assert refused.value.code == "known_domains_damaged"
    assert known.path.read_text() == content


def test_where_nothing_can_be_kept_the_way_out_is_told(tmp_path):
    (tmp_path / "file").touch()
    known = KnownDomains(tmp_path / "file" / "known_domains.json")
    with pytest.raises((InvalidConfig, InvalidInput)) as refused:
        known.check(HERE, FIRST)
    assert str(known.path) in refused.value.detail


def _trust(path: str, number: int) -> None:
    KnownDomains(Path(path)).check(RelayedAddress("http://127.0.0.1:7000", f"domain-{number}"), FIRST)


def test_processes_that_write_at_once_lose_nothing(known):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_trust, args=(str(known.path), number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(json.loads(known.path.read_text())["domains"]) == 8
