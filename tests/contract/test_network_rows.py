"""Rows of associations, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from pygrid.core.associations import HOLDING, AssociationState
from pygrid.errors import NotFound
from pygrid.messages.associations import InvitationInfo
from pygrid.storage import associations as rows
from pygrid.storage.associations import KnownDomain
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
ACCEPTED, PENDING = AssociationState.ACCEPTED, AssociationState.PENDING


@pytest.fixture(autouse=True)
def migrated(database: Database) -> None:
    migrate(database)


def put(
    database: Database, name: str, state: AssociationState = ACCEPTED, identity: str | None = "k", **more: Any
) -> KnownDomain:
    entry = {"name": name, "version": "1", "address": f"http://{name}"}
    return database.write_now(
        lambda connection: rows.put_domain(connection, rows.NewDomain(name, identity, state, entry, "s", **more), NOW)
    )


def find(database: Database, name: str) -> KnownDomain | None:
    return database.read_now(lambda connection: rows.find_holder(connection, name))


def test_a_domain_is_found_by_its_name_whatever_the_case(database: Database) -> None:
    known = put(database, "Alice")
    assert find(database, "aLICE") == known
    assert (known.name, known.claimed_address, known.identity, known.state) == ("Alice", "http://Alice", "k", ACCEPTED)
    assert (known.decided_at, known.last_seen_at, known.is_legacy) == (NOW, None, False)
    assert find(database, "bob") is None
    with pytest.raises(NotFound) as missing:
        database.read_now(lambda connection: rows.get_named(connection, "bob"))
    assert missing.value.code == "domain_not_found"


def test_several_may_ask_for_a_name_until_one_has_it(database: Database) -> None:
    denied = put(database, "alice", AssociationState.DENIED, "a")
    first, second = put(database, "Alice", PENDING, "b"), put(database, "ALICE", PENDING, "c")
    other = put(database, "bob", PENDING, "b")
    assert find(database, "alice") is None
    named = database.read_now(lambda connection: rows.list_named(connection, "alice"))
    assert named == [denied, first, second]
    assert database.read_now(lambda connection: rows.find_key(connection, "alice", "c")) == second
    assert database.read_now(lambda connection: rows.find_key(connection, "alice", "d")) is None
    changed = database.write_now(lambda connection: rows.update_domain(connection, second, {"state": ACCEPTED.value}))
    assert (changed.id, changed.state) == (second.id, ACCEPTED)
    assert database.read_now(lambda connection: rows.get_named(connection, "alice")) == [changed, denied]
    assert database.read_now(lambda connection: rows.find_domain(connection, first.id)) is None
    assert database.read_now(lambda connection: rows.find_domain(connection, other.id)) == other
    put(database, "bob", ACCEPTED, "z")
    assert [known.identity for known in database.read_now(lambda connection: rows.list_named(connection, "bob"))] == [
        "z"
    ]


def test_requests_of_those_who_are_gone_are_forgotten(database: Database) -> None:
    later = NOW + dt.timedelta(days=8)
    silent, heard, kept = (
        put(database, "a", PENDING),
        put(database, "b", PENDING),
        put(database, "c", AssociationState.LEFT),
    )
    database.write_now(lambda connection: rows.update_domains_seen(connection, {heard.id: later}))
    gone = database.write_now(lambda connection: rows.delete_stale_requests(connection, later - dt.timedelta(days=7)))
    assert gone == [silent.name]
    assert [known.id for known in database.read_now(rows.list_domains)] == [heard.id, kept.id]


def test_domains_are_listed_by_name_and_counted_by_state(database: Database) -> None:
    for name, state in (("b", PENDING), ("C", ACCEPTED), ("a", ACCEPTED)):
        put(database, name, state)
    assert [known.name for known in database.read_now(rows.list_domains)] == ["a", "b", "C"]
    accepted = database.read_now(lambda connection: rows.list_domains(connection, {ACCEPTED}))
    assert [known.name for known in accepted] == ["a", "C"]
    assert database.read_now(rows.count_domains) == {ACCEPTED: 2, PENDING: 1}


def test_changes_and_signs_of_life_are_kept(database: Database) -> None:
    first, second = put(database, "a"), put(database, "b")
    changes = {"state": AssociationState.REVOKED.value, "reason": "why", "decided_by": 3}
    database.write_now(lambda connection: rows.update_domain(connection, first, changes))
    database.write_now(
        lambda connection: rows.update_domains_seen(connection, {first.id: NOW, second.id: NOW, 99: NOW})
    )
    database.write_now(lambda connection: rows.update_domains_seen(connection, {}))
    found = database.read_now(rows.list_domains)
    assert [(known.state, known.reason, known.last_seen_at) for known in found] == [
        (AssociationState.REVOKED, "why", NOW),
        (ACCEPTED, "", NOW),
    ]


def test_a_revoked_key_is_known_under_whatever_name(database: Database) -> None:
    put(database, "a", AssociationState.REVOKED, "bad")
    put(database, "b", ACCEPTED, "good")
    assert database.read_now(lambda connection: rows.is_revoked(connection, "bad"))
    assert not database.read_now(lambda connection: rows.is_revoked(connection, "good"))


def invite(database: Database, token_hash: str, domain: str | None = None, max_uses: int = 1) -> InvitationInfo:
    return database.write_now(
        lambda connection: rows.put_invitation(
            connection, rows.UnusedInvitation(token_hash, domain, max_uses, NOW + dt.timedelta(hours=1), 1), NOW
        )
    )


def test_an_invitation_is_good_for_its_name_its_time_and_its_uses(database: Database) -> None:
    anyone, named = invite(database, "h1"), invite(database, "h2", "Alice", 2)

    def good(token_hash: str, name: str, at: dt.datetime = NOW) -> int | None:
        found = database.read_now(lambda connection: rows.find_invitation(connection, token_hash, name, at))
        return None if found is None else found.id

    assert good("h1", "bob") == anyone.id
    assert good("h2", "alice") == named.id
    assert good("h2", "bob") is None
    assert good("h3", "bob") is None
    assert good("h1", "bob", NOW + dt.timedelta(hours=1)) is None
    assert database.write_now(lambda connection: rows.acquire_invitation(connection, anyone.id))
    assert not database.write_now(lambda connection: rows.acquire_invitation(connection, anyone.id))
    assert good("h1", "bob") is None
    assert [found.num_uses for found in database.read_now(rows.list_invitations)] == [1, 0]
    # Whoever came by it stays when it is taken back.
    put(database, "zoe", invitation_id=anyone.id)
    database.write_now(lambda connection: rows.delete_invitation(connection, anyone.id))
    assert find(database, "zoe") is not None
    with pytest.raises(NotFound) as gone:
        database.write_now(lambda connection: rows.delete_invitation(connection, anyone.id))
    assert gone.value.code == "invitation_not_found"


async def test_of_many_at_once_only_as_many_use_an_invitation_as_it_is_good_for(
    database: Database, database_url: str
) -> None:
    found = invite(database, "h", max_uses=3)
    others = [Database(database_url) for _ in range(4)]
    try:
        used = await asyncio.gather(
            *(
                opened.write(lambda connection: rows.acquire_invitation(connection, found.id))
                for opened in others
                for _ in range(4)
            )
        )
    finally:
        for opened in others:
            opened.close()
    assert sum(used) == 3


@pytest.mark.parametrize("state", list(AssociationState))
def test_two_processes_can_not_give_a_name_twice(database: Database, state: AssociationState) -> None:
    put(database, "alice")

    def insert(connection: sa.Connection) -> None:
        values = {
            "name": "ALICE",
            "name_key": "alice",
            "state": state.value,
            "entry": {},
            "reason": "",
            "created_at": NOW,
        }
        connection.execute(sa.insert(rows.domains).values(values))

    if state in HOLDING:
        with pytest.raises(sa.exc.IntegrityError):
            database.write_now(insert)
    else:
        database.write_now(insert)


def test_a_domain_keeps_its_networks(database: Database) -> None:
    first = database.write_now(lambda connection: rows.put_network(connection, "http://a", "token", NOW))
    assert (first.state, first.invitation, first.identity, first.name) == (
        AssociationState.JOINING,
        "token",
        None,
        None,
    )
    later = NOW + dt.timedelta(minutes=1)
    changes = {"state": ACCEPTED.value, "identity": "k", "name": "net", "invitation": None}
    database.write_now(lambda connection: rows.update_network(connection, first.id, changes, later))
    found = database.read_now(lambda connection: rows.find_network(connection, "http://a"))
    assert found is not None
    assert (found.state, found.identity, found.name, found.invitation, found.updated_at) == (
        ACCEPTED,
        "k",
        "net",
        None,
        later,
    )
    second = database.write_now(lambda connection: rows.put_network(connection, "http://b", None, NOW))
    assert database.read_now(rows.list_networks) == [found, second]
    assert database.read_now(lambda connection: rows.get_network(connection, second.id)) == second
    with pytest.raises(sa.exc.IntegrityError):
        database.write_now(lambda connection: rows.put_network(connection, "http://b", None, NOW))
    database.write_now(lambda connection: rows.delete_network(connection, second.id))
    with pytest.raises(NotFound) as gone:
        database.read_now(lambda connection: rows.get_network(connection, second.id))
    assert gone.value.code == "association_not_found"


def test_what_a_domain_publishes_is_counted(database: Database) -> None:
    names = ["datasets", "models", "processes", "cycles", "jobs", "users"]
    assert database.read_now(lambda connection: rows.count_rows(connection, names)) == dict.fromkeys(names, 0)
    assert database.read_now(lambda connection: rows.count_rows(connection, ())) == {}
