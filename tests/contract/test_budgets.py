"""The ledger and the audit log, on SQLite and on PostgreSQL.

Should happen: a charge that fits both caps is debited once, however often and by however many it is asked for; it stays
through a crash; a refund of what never started makes room again; the audit log tells all of it and verifies.
Should not happen: charges at once that together exceed a cap; a charge that changes under its job; an entry that was
altered, removed, added or put back in an older copy without `verify` finding it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pygrid.errors import Conflict, InvalidInput, NotFound
from pygrid.privacy.events import ApproximateDp, Event, Gaussian, PoissonSampledGaussian, PureDp
from pygrid.privacy.ledger import (
    TRANSITIONS,
    Accepted,
    BudgetRefusal,
    ChargeState,
    Rejected,
    Use,
    cost_of,
    epsilon_spent,
    open_cap,
)
from pygrid.storage import audit, budgets, charges
from pygrid.storage.audit import Head, audit_entries
from pygrid.storage.datasets import datasets
from pygrid.storage.sql.database import Database
from pygrid.storage.sql.migrations import migrate

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
DATASET, ALICE, BOB = 7, 11, 12
CAP, USER_CAP = open_cap(3.0, 1e-6), open_cap(2.0, 1e-6)
SMALL = (PureDp(0.1),)


def put_dataset(connection: sa.Connection, dataset_id: int) -> None:
    connection.execute(
        datasets.insert().values(
            id=dataset_id,
            name="patients",
            name_key=f"patients {dataset_id}",
            description="",
            visibility="private",
            search_text="",
            created_at=NOW,
            updated_at=NOW,
        )
    )


@pytest.fixture
def ledger(database: Database) -> Database:
    """A database in which one dataset has a budget."""
    migrate(database)

    def prepare(connection: sa.Connection) -> None:
        put_dataset(connection, DATASET)
        budgets.open_budget(connection, budgets.Budget(DATASET, CAP, USER_CAP, NOW), actor=1)

    database.write_now(prepare)
    return database


def reserve(
    database: Database, job_id: str, user_id: int = ALICE, events: tuple[Event, ...] = SMALL, dataset_id: int = DATASET
) -> Accepted | Rejected:
    return database.write_now(
        lambda connection: charges.reserve(
            connection, job_id=job_id, dataset_id=dataset_id, user_id=user_id, events=events, now=NOW
        )
    )


def move(database: Database, job_id: str, state: ChargeState) -> None:
    database.write_now(lambda connection: charges.move_charge(connection, job_id, state, NOW))


def num_charges(database: Database) -> int:
    return database.read_now(
        lambda connection: connection.execute(sa.select(sa.func.count()).select_from(charges.charges)).scalar_one()
    )


def is_sound(database: Database) -> bool:
    """Nothing wrong with the log, and what users are said to have spent is the sum of their charges."""
    return database.read_now(audit.verify) is None and database.read_now(charges.find_mismatch) is None


def test_charges_are_accepted_up_to_the_cap_of_the_user(ledger: Database) -> None:
    answers = [reserve(ledger, f"job-{number}") for number in range(60)]
    fitting = math.floor(USER_CAP.divergence / cost_of(SMALL).at(USER_CAP.order).divergence)
    assert answers == [Accepted()] * fitting + [Rejected(BudgetRefusal.USER_EXHAUSTED)] * (60 - fitting)
    total = ledger.read_now(lambda connection: charges.get_total(connection, DATASET, ALICE))
    assert epsilon_spent(total, USER_CAP) <= 2.0
    assert is_sound(ledger)


def test_the_cap_of_the_dataset_holds_against_users_together(ledger: Database) -> None:
    answers = [reserve(ledger, f"job-{user}-{n}", user) for user in range(20, 30) for n in range(10)]
    fitting = math.floor(CAP.divergence / cost_of(SMALL).at(CAP.order).divergence)
    assert answers.count(Accepted()) == fitting < 100
    assert answers[-1] == Rejected(BudgetRefusal.DATASET_EXHAUSTED)
    total = ledger.read_now(lambda connection: charges.get_total(connection, DATASET))
    assert 2.5 < epsilon_spent(total, CAP) <= 3.0


def test_twenty_threads_do_not_overspend(ledger: Database, database_url: str) -> None:
    """Two `Database` on one store stand for two processes."""
    other = Database(database_url)
    try:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda n: reserve((ledger, other)[n % 2], f"job-{n}", 100 + n % 20), range(120)))
    finally:
        other.close()
    fitting = math.floor(CAP.divergence / cost_of(SMALL).at(CAP.order).divergence)
    assert answers.count(Accepted()) == fitting == num_charges(ledger)
    assert is_sound(ledger)


def test_the_same_job_at_once_is_charged_once(ledger: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: reserve(ledger, "job"), range(16)))
    assert answers == [Accepted()] * 16
    assert num_charges(ledger) == 1


def test_asking_again_gives_the_same_answer_until_the_charge_ends(ledger: Database) -> None:
    assert reserve(ledger, "job") == Accepted()
    move(ledger, "job", ChargeState.RUNNING)
    assert reserve(ledger, "job") == Accepted()
    move(ledger, "job", ChargeState.RELEASED)
    assert reserve(ledger, "job") == Rejected(BudgetRefusal.ALREADY_SETTLED)
    assert num_charges(ledger) == 1


@pytest.mark.parametrize("changed", [{"user_id": BOB}, {"events": (PureDp(0.2),)}, {"events": ()}])
def test_a_job_that_was_charged_otherwise_is_refused(ledger: Database, changed: dict[str, object]) -> None:
    reserve(ledger, "job")
    with pytest.raises(Conflict) as refused:
        reserve(ledger, "job", **changed)  # type: ignore[arg-type]
    assert refused.value.code == "job_charged_otherwise"


@pytest.mark.parametrize("last", [ChargeState.FAILED, ChargeState.RELEASED, ChargeState.REFUNDED])
def test_only_a_refund_makes_room_again(ledger: Database, last: ChargeState) -> None:
    big = (Gaussian(6.0),)
    assert reserve(ledger, "first", events=big) == Accepted()
    assert reserve(ledger, "second", events=big) == Rejected(BudgetRefusal.USER_EXHAUSTED)
    if last is not ChargeState.REFUNDED:
        move(ledger, "first", ChargeState.RUNNING)
    move(ledger, "first", last)
    expected = Accepted() if last is ChargeState.REFUNDED else Rejected(BudgetRefusal.USER_EXHAUSTED)
    assert reserve(ledger, "second", events=big) == expected
    assert is_sound(ledger)


@pytest.mark.parametrize("state", list(ChargeState))
def test_a_charge_moves_only_as_drawn(ledger: Database, state: ChargeState) -> None:
    ways = {
        ChargeState.RESERVED: (),
        ChargeState.RUNNING: (ChargeState.RUNNING,),
        ChargeState.RELEASED: (ChargeState.RUNNING, ChargeState.RELEASED),
        ChargeState.FAILED: (ChargeState.FAILED,),
        ChargeState.REFUNDED: (ChargeState.REFUNDED,),
    }
    for target in ChargeState:
        job_id = f"job-{target}"
        reserve(ledger, job_id, user_id=ALICE, events=(Gaussian(50.0),))
        for step in ways[state]:
            move(ledger, job_id, step)
        if target in TRANSITIONS[state]:
            move(ledger, job_id, target)
        else:
            with pytest.raises(Conflict) as refused:
                move(ledger, job_id, target)
            assert refused.value.code == "charge_state"


def test_one_of_two_that_end_a_charge_wins(ledger: Database) -> None:
    reserve(ledger, "job")
    move(ledger, "job", ChargeState.RUNNING)

    def end(state: ChargeState) -> bool:
        try:
            move(ledger, "job", state)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(end, [ChargeState.RELEASED, ChargeState.FAILED] * 4))
    assert won.count(True) == 1


def test_without_a_budget_or_a_grant_nothing_is_accepted(ledger: Database) -> None:
    assert reserve(ledger, "job", dataset_id=99) == Rejected(BudgetRefusal.NO_BUDGET)

    def prepare(connection: sa.Connection) -> None:
        put_dataset(connection, 8)
        budgets.open_budget(connection, budgets.Budget(8, CAP, None, NOW), actor=1)
        budgets.put_grant(connection, 8, BOB, 1.0, actor=1, now=NOW)

    ledger.write_now(prepare)
    assert reserve(ledger, "a", ALICE, dataset_id=8) == Rejected(BudgetRefusal.NO_GRANT)
    assert reserve(ledger, "b", BOB, dataset_id=8) == Accepted()
    assert num_charges(ledger) == 1


def test_a_refusal_leaves_nothing_behind(ledger: Database) -> None:
    before = ledger.read_now(audit.get_head)
    assert reserve(ledger, "job", events=(Gaussian(0.1),)) == Rejected(BudgetRefusal.DATASET_EXHAUSTED)
    assert ledger.read_now(audit.get_head) == before
    assert ledger.read_now(lambda connection: budgets.list_grants(connection, DATASET)) == {}


def test_an_event_without_a_curve_counts_in_the_part_set_aside(ledger: Database) -> None:
    event = (ApproximateDp(0.1, 1e-9),)
    assert reserve(ledger, "none set aside", events=event) == Rejected(BudgetRefusal.DATASET_EXHAUSTED)
    cap = open_cap(3.0, 1e-6, Use.MIXED, basic_epsilon=0.35, basic_delta=1e-7)

    def prepare(connection: sa.Connection) -> None:
        put_dataset(connection, 8)
        budgets.open_budget(connection, budgets.Budget(8, cap, cap, NOW), actor=1)

    ledger.write_now(prepare)
    answers = [reserve(ledger, f"job-{n}", events=event, dataset_id=8) for n in range(5)]
    assert answers.count(Accepted()) == 3
    assert reserve(ledger, "with a curve", events=SMALL, dataset_id=8) == Accepted()


def test_a_raised_cap_admits_more_and_a_lowered_one_nothing(ledger: Database) -> None:
    events = (Gaussian(6.0),)
    reserve(ledger, "first", events=events)

    def change(epsilon: float, user_epsilon: float) -> budgets.Budget:
        return ledger.write_now(
            lambda connection: budgets.update_budget(
                connection, DATASET, epsilon=epsilon, user_epsilon=user_epsilon, actor=1, now=NOW
            )
        )

    assert reserve(ledger, "second", events=events) == Rejected(BudgetRefusal.USER_EXHAUSTED)
    changed = change(6.0, 4.0)
    assert (changed.cap.order, changed.user_cap.order if changed.user_cap else 0) == (CAP.order, USER_CAP.order)
    assert reserve(ledger, "second", events=events) == Accepted()
    change(1.9, 1.5)
    assert reserve(ledger, "third", events=SMALL) == Rejected(BudgetRefusal.DATASET_EXHAUSTED)
    assert ledger.read_now(lambda connection: budgets.get_budget(connection, DATASET)).cap.epsilon == 1.9
    assert is_sound(ledger)


def test_a_grant_of_ones_own_is_not_changed_with_what_everybody_gets(ledger: Database) -> None:
    def grant(epsilon: float) -> float:
        return ledger.write_now(
            lambda connection: budgets.put_grant(connection, DATASET, BOB, epsilon, actor=1, now=NOW)
        ).epsilon

    assert (grant(0.5), grant(2.5)) == (0.5, 2.5)
    reserve(ledger, "job", ALICE)
    ledger.write_now(
        lambda connection: budgets.update_budget(connection, DATASET, epsilon=3.0, user_epsilon=1.8, actor=1, now=NOW)
    )
    caps = ledger.read_now(lambda connection: budgets.list_grants(connection, DATASET))
    assert {user: cap.epsilon for user, cap in caps.items()} == {ALICE: 1.8, BOB: 2.5}


def test_a_second_budget_and_a_missing_one_are_refused(ledger: Database) -> None:
    with pytest.raises(Conflict) as exists:
        ledger.write_now(
            lambda connection: budgets.open_budget(connection, budgets.Budget(DATASET, CAP, None, NOW), actor=1)
        )
    assert exists.value.code == "budget_exists"
    with pytest.raises(NotFound) as missing:
        ledger.write_now(lambda connection: budgets.get_budget(connection, 99))
    assert missing.value.code == "budget_not_found"
    with pytest.raises(NotFound) as missing:
        move(ledger, "unknown", ChargeState.RUNNING)
    assert missing.value.code == "charge_not_found"


def test_charges_come_back_as_they_were_made(ledger: Database) -> None:
    events = (PoissonSampledGaussian(0.01, 3.0, 100), Gaussian(40.0))
    reserve(ledger, "job", BOB, events)
    charge = ledger.read_now(lambda connection: charges.get_charge(connection, "job"))
    assert (charge.job_id, charge.user_id, charge.state, charge.events) == ("job", BOB, ChargeState.RESERVED, events)
    total = ledger.read_now(lambda connection: charges.get_total(connection, DATASET))
    assert total.curve == pytest.approx(cost_of(events).curve, rel=1e-12)


async def test_a_charge_is_there_after_a_crash(ledger: Database, database_url: str) -> None:
    """What was answered is committed: another process sees it, whatever happens to this one."""
    await ledger.write(
        lambda connection: charges.reserve(
            connection, job_id="job", dataset_id=DATASET, user_id=ALICE, events=SMALL, now=NOW
        )
    )
    other = Database(database_url)
    try:
        charge = await asyncio.to_thread(other.read_now, lambda connection: charges.get_charge(connection, "job"))
        assert charge.state is ChargeState.RESERVED
    finally:
        other.close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(1, 3), st.sampled_from([SMALL, (Gaussian(6.0),), (PoissonSampledGaussian(0.01, 1.0, 100),)])
        ),
        max_size=12,
    ),
)
def test_no_sequence_of_charges_exceeds_a_cap(ledger: Database, asked: list[tuple[int, tuple[Event, ...]]]) -> None:
    run = uuid.uuid4().hex
    for number, (user, events) in enumerate(asked):
        reserve(ledger, f"{run}-{number}", user, events)
    for user, cap in ledger.read_now(lambda connection: budgets.list_grants(connection, DATASET)).items():
        total = ledger.read_now(lambda connection, user=user: charges.get_total(connection, DATASET, user))
        assert epsilon_spent(total, cap) <= cap.epsilon
    total = ledger.read_now(lambda connection: charges.get_total(connection, DATASET))
    assert epsilon_spent(total, CAP) <= CAP.epsilon


# The audit log


@pytest.fixture
def told(ledger: Database) -> Database:
    """A log of 1 + 5 entries."""
    for number in range(5):
        reserve(ledger, f"job-{number}")
    assert is_sound(ledger)
    return ledger


def test_the_log_tells_what_was_done(told: Database) -> None:
    move(told, "job-0", ChargeState.REFUNDED)
    entries = told.read_now(audit.list_entries)
    assert [entry.action for entry in entries] == ["budget_opened", *["budget_reserved"] * 5, "charge_refunded"]
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
    assert entries[1].actor == ALICE
    assert entries[1].at == NOW
    assert entries[1].data["job_id"] == "job-0"
    assert told.read_now(lambda connection: audit.list_entries(connection, after=6))[0].action == "charge_refunded"


def test_what_is_undone_is_not_told(told: Database) -> None:
    before = told.read_now(audit.get_head)

    def half(connection: sa.Connection) -> None:
        charges.reserve(connection, job_id="late", dataset_id=DATASET, user_id=ALICE, events=SMALL, now=NOW)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        told.write_now(half)
    assert told.read_now(audit.get_head) == before
    assert is_sound(told)


@pytest.mark.parametrize(
    ("statement", "number", "says"),
    [
        (
            "UPDATE audit_entries SET entry = replace(entry, '0.1', '0.2') WHERE number = 3",
            3,
            "its hash does not match",
        ),
        ("UPDATE audit_entries SET hash = 'f' WHERE number = 4", 4, "its hash does not match"),
        ("DELETE FROM audit_entries WHERE number = 2", 2, "missing"),
        ("DELETE FROM audit_entries WHERE number = 1", 1, "missing"),
        ("DELETE FROM audit_entries WHERE number = 6", 6, "the log ends at entry 5, but its head is entry 6"),
        ("DELETE FROM audit_head", 7, "its head is entry 0"),
        ("INSERT INTO audit_entries VALUES (7, '{}', 'f')", 7, "its hash does not match"),
    ],
)
def test_tampering_is_found_where_it_begins(told: Database, statement: str, number: int, says: str) -> None:
    told.write_now(lambda connection: connection.execute(sa.text(statement)))
    fault = told.read_now(audit.verify)
    assert fault is not None
    assert fault.number == number
    assert says in fault.reason


def test_a_log_written_anew_does_not_lead_through_the_exported_head(told: Database) -> None:
    exported = told.read_now(audit.get_head)

    def write_anew(connection: sa.Connection) -> None:
        entries = audit.list_entries(connection)
        connection.execute(sa.text("DELETE FROM audit_entries"))
        connection.execute(sa.text("DELETE FROM audit_head"))
        for entry in entries:
            changed = {**entry.data, "user_id": BOB}
            audit.append(connection, entry.action, changed, actor=BOB, now=entry.at)

    told.write_now(write_anew)
    assert told.read_now(audit.verify) is None
    fault = told.read_now(lambda connection: audit.verify(connection, exported))
    assert fault is not None
    assert "was rewritten" in fault.reason


def test_an_old_copy_put_back_is_found(told: Database) -> None:
    later = told.read_now(audit.get_head)

    def put_back(connection: sa.Connection) -> None:
        connection.execute(audit_entries.delete().where(audit_entries.c.number > 3))
        last = connection.execute(sa.select(audit_entries.c.hash).where(audit_entries.c.number == 3)).scalar_one()
        connection.execute(sa.text("UPDATE audit_head SET number = 3, hash = :hash"), {"hash": last})

    assert told.read_now(lambda connection: audit.leads_through(connection, later))
    told.write_now(put_back)
    assert is_sound(told)
    assert not told.read_now(lambda connection: audit.leads_through(connection, later))
    assert told.read_now(lambda connection: audit.leads_through(connection, Head(0, audit.START)))
    fault = told.read_now(lambda connection: audit.verify(connection, later))
    assert fault is not None
    assert "old copy" in fault.reason


def test_an_exported_head_never_goes_back(tmp_path: Path) -> None:
    path = tmp_path / audit.HEAD_FILE
    audit.export_head(Head(3, "c"), path)
    audit.export_head(Head(2, "b"), path)
    assert audit.read_head(path) == Head(3, "c")
    audit.export_head(Head(4, "d"), path)
    assert msgspec.json.decode(path.read_bytes()) == {"number": 4, "hash": "d"}
    path.write_text("not a head")
    with pytest.raises(InvalidInput) as refused:
        audit.export_head(Head(5, "e"), path)
    assert refused.value.code == "invalid_audit_head"
