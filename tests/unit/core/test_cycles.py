"""The life of a cycle and who may do what in it.

Should happen: only the transitions of the diagram; each refusal has its reason and a hint; a report is good once, and
stays so. Should not happen: a cycle closes with fewer reports than are needed, or stays open when nobody can come any
more.
"""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pygrid.configuration import ServerConfig, read_server_config
from pygrid.core import cycles as rules
from pygrid.core.cycles import (
    AcceptedReport,
    AdmissionRefusal,
    Admitted,
    Assignment,
    AssignmentState,
    Cycle,
    CycleState,
    Due,
    FoundApplicant,
    FoundReport,
    Redeemed,
    RepeatedReport,
)
from pygrid.errors import Conflict, Gone, InvalidInput

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(seconds=60)


def config(**fields: Any) -> ServerConfig:
    return read_server_config({"cycle_length": 60, **fields})


def cycle(**fields: Any) -> Cycle:
    """An open cycle, ten seconds before its deadline."""
    values: dict[str, Any] = {
        "id": 1,
        "process_id": 1,
        "sequence": 5,
        "state": CycleState.OPEN,
        "attempt": 1,
        "checkpoint": 5,
        "num_assigned": 0,
        "num_reports": 0,
        "created_at": NOW - dt.timedelta(seconds=50),
        "opened_at": NOW - dt.timedelta(seconds=50),
        "deadline_at": NOW + dt.timedelta(seconds=10),
    }
    return Cycle(**{**values, **fields})


def own(state: AssignmentState, fingerprint: str | None = None) -> Assignment:
    return Assignment(1, 1, "client", state, fingerprint)


# -- transitions -------------------------------------------------------------------------------------------------------


def test_a_cycle_waits_only_for_several_clients() -> None:
    assert rules.next_cycle_state(config()) is CycleState.OPEN
    assert rules.next_cycle_state(config(min_workers=1)) is CycleState.OPEN
    assert rules.next_cycle_state(config(min_workers=2)) is CycleState.HOSTED


def test_a_deadline_begins_when_a_cycle_opens() -> None:
    waiting = cycle(state=CycleState.HOSTED, opened_at=None, deadline_at=None)
    opened = rules.open_cycle(waiting, config(), NOW)
    assert opened == replace(waiting, state=CycleState.OPEN, opened_at=NOW, deadline_at=LATER)
    assert rules.open_cycle(waiting, config(cycle_length=None), NOW).deadline_at is None
    assert rules.first_deadline(config(), NOW) == LATER


def test_opened_again_it_keeps_what_came() -> None:
    again = rules.reopen(cycle(num_assigned=5, num_reports=2), config(), NOW)
    assert again == cycle(num_assigned=2, num_reports=2, attempt=2, deadline_at=LATER)


@pytest.mark.parametrize(("ahead_s", "left_s"), [(30, 30), (60, 60), (61, 60), (86_460, 60), (-5, -5)])
def test_a_clock_that_was_set_back_makes_no_deadline_longer(ahead_s: float, left_s: float) -> None:
    """After a restart a deadline is at most one ``cycle_length`` away, here 60 s."""
    before = cycle(deadline_at=NOW + dt.timedelta(seconds=ahead_s))
    assert rules.shorten(before, config(), NOW) == replace(before, deadline_at=NOW + dt.timedelta(seconds=left_s))
    assert rules.shorten(before, config(cycle_length=None), NOW) is before
    endless = cycle(deadline_at=None)
    assert rules.shorten(endless, config(), NOW) is endless


@pytest.mark.parametrize("state", [CycleState.CLOSING, CycleState.COMPLETED])
def test_what_is_over_does_not_open_or_close(state: CycleState) -> None:
    for transition in (
        lambda: rules.open_cycle(cycle(state=state), config(), NOW),
        lambda: rules.reopen(cycle(state=state), config(), NOW),
        lambda: rules.close(cycle(state=state)),
    ):
        with pytest.raises(AssertionError):
            transition()


def test_what_is_open_does_not_open_and_what_waits_is_not_opened_again() -> None:
    with pytest.raises(AssertionError):
        rules.open_cycle(cycle(), config(), NOW)
    with pytest.raises(AssertionError):
        rules.reopen(cycle(state=CycleState.HOSTED), config(), NOW)


@pytest.mark.parametrize(
    ("num_cycles", "sequence", "last"), [(0, 1, False), (0, 10**6, False), (3, 2, False), (3, 3, True), (1, 1, True)]
)
def test_the_last_cycle_is_known(num_cycles: int, sequence: int, last: bool) -> None:
    assert rules.is_last(cycle(sequence=sequence), config(num_cycles=num_cycles)) is last


# -- due ---------------------------------------------------------------------------------------------------------------


def _due(num_reports: int, fields: dict[str, Any], passed: bool) -> Due:
    """The rule said a second time, as a list of cases."""
    needed = max(1, fields["min_diffs"] or 0)
    if num_reports < needed:
        return Due.REOPEN if passed else Due.NOTHING
    if passed:
        return Due.CLOSE
    if fields["max_diffs"] is not None and num_reports >= fields["max_diffs"]:
        return Due.CLOSE
    if fields["max_workers"] is not None and num_reports >= fields["max_workers"]:
        return Due.CLOSE
    if fields["max_diffs"] is None and fields["max_workers"] is None and fields["cycle_length"] is None:
        return Due.CLOSE
    return Due.NOTHING


def test_due_is_right_in_every_case() -> None:
    """All of: reports 0..4, min_diffs, max_diffs and max_workers absent or 1..3, deadline absent, to come, now,
    passed.
    """
    num_cases = 0
    limits = (None, 1, 2, 3)
    for min_diffs, max_diffs, max_workers, length in itertools.product(limits, limits, limits, (None, 60)):
        fields = {"min_diffs": min_diffs, "max_diffs": max_diffs, "max_workers": max_workers, "cycle_length": length}
        if any(
            a is not None and b is not None and a > b
            for a, b in ((min_diffs, max_diffs), (min_diffs, max_workers), (max_diffs, max_workers))
        ):
            continue
        for num_reports, left_s in itertools.product(range(5), (None,) if length is None else (1, 0, -1)):
            deadline = None if left_s is None else NOW + dt.timedelta(seconds=left_s)
            given_cycle = cycle(num_reports=num_reports, deadline_at=deadline)
            passed = left_s is not None and left_s <= 0
            assert rules.due(given_cycle, config(**fields), NOW) is _due(num_reports, fields, passed), (
                fields,
                num_reports,
                left_s,
            )
            for state in (CycleState.HOSTED, CycleState.CLOSING, CycleState.COMPLETED):
                assert rules.due(replace(given_cycle, state=state), config(**fields), NOW) is Due.NOTHING
            num_cases += 1
    assert num_cases > 300


# -- admit -------------------------------------------------------------------------------------------------------------


def admit(given_cycle: Cycle, given_config: ServerConfig, **changes: Any) -> AdmissionRefusal | None:
    return rules.find_refusal(given_cycle, FoundApplicant(given_config, **changes), NOW)


REFUSALS: list[tuple[str, int, Cycle, ServerConfig, dict[str, Any]]] = [
    ("between_cycles", 1, cycle(state=CycleState.CLOSING), config(), {}),
    ("between_cycles", 1, cycle(state=CycleState.COMPLETED), config(), {}),
    ("between_cycles", 1, cycle(deadline_at=NOW), config(), {}),
    ("too_slow", 60, cycle(), config(minimum_download_speed=5), {"download": 4.9, "upload": 100.0}),
    ("too_slow", 60, cycle(), config(minimum_upload_speed=5), {"download": 100.0, "upload": 4.9}),
    ("too_slow", 60, cycle(), config(minimum_upload_speed=0), {}),
    (
        "too_slow",
        90,
        cycle(deadline_at=NOW + dt.timedelta(seconds=90)),
        config(minimum_upload_speed=5),
        {"upload": 0.0},
    ),
    ("already_assigned", 10, cycle(), config(), {"own": own(AssignmentState.ASSIGNED)}),
    ("already_assigned", 10, cycle(), config(), {"own": own(AssignmentState.REPORTED, "x")}),
    ("resting", 10, cycle(), config(do_not_reuse_workers_until_cycle=1), {"last_sequence": 4}),
    ("resting", 10, cycle(), config(do_not_reuse_workers_until_cycle=3), {"last_sequence": 2}),
    ("waiting_for_workers", 5, cycle(state=CycleState.HOSTED, deadline_at=None), config(min_workers=2), {}),
    ("cycle_full", 10, cycle(num_assigned=3), config(max_workers=3), {}),
    ("cycle_full", 5, cycle(num_assigned=3, deadline_at=None), config(max_workers=3, cycle_length=None), {}),
    ("cycle_full", 10, cycle(num_assigned=3, deadline_at=NOW + dt.timedelta(seconds=9.001)), config(max_workers=3), {}),
    ("cycle_full", 1, cycle(num_assigned=3, deadline_at=NOW - dt.timedelta(seconds=9)), config(max_workers=3), {}),
]


@pytest.mark.parametrize(("reason", "timeout_s", "given_cycle", "given_config", "changes"), REFUSALS)
def test_every_refusal_has_a_reason_and_a_hint(
    reason: str, timeout_s: int, given_cycle: Cycle, given_config: ServerConfig, changes: dict[str, Any]
) -> None:
    refusal = admit(given_cycle, given_config, **changes)
    assert refusal is not None
    assert (refusal.reason, refusal.timeout_s) == (reason, timeout_s)
    assert refusal.detail


@pytest.mark.parametrize(
    ("given_cycle", "given_config", "changes"),
    [
        (cycle(), config(), {}),
        (cycle(num_assigned=2), config(max_workers=3), {}),
        (cycle(num_assigned=10**6), config(), {}),
        (cycle(), config(minimum_download_speed=5, minimum_upload_speed=1), {"download": 5.0, "upload": 1.0}),
        (cycle(), config(), {"own": own(AssignmentState.EXPIRED)}),
        (cycle(), config(), {"last_sequence": 4}),
        (cycle(), config(do_not_reuse_workers_until_cycle=1), {"last_sequence": 3}),
        (cycle(), config(do_not_reuse_workers_until_cycle=3), {"last_sequence": 1}),
        (cycle(deadline_at=None), config(cycle_length=None), {}),
    ],
)
def test_who_fits_is_admitted(given_cycle: Cycle, given_config: ServerConfig, changes: dict[str, Any]) -> None:
    assert admit(given_cycle, given_config, **changes) is None


def test_only_an_open_assignment_of_an_open_cycle_is_renewed() -> None:
    for state, assignment, left_s in itertools.product(CycleState, AssignmentState, (None, 1, 0, -1)):
        deadline = None if left_s is None else NOW + dt.timedelta(seconds=left_s)
        expected = state is CycleState.OPEN and assignment is AssignmentState.ASSIGNED and left_s in (None, 1)
        assert rules.may_renew(cycle(state=state, deadline_at=deadline), config(), own(assignment), NOW) is expected


# -- redeem ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", CycleState)
def test_a_report_that_was_accepted_stays_accepted(state: CycleState) -> None:
    reported = own(AssignmentState.REPORTED, "the same")
    for deadline in (None, NOW, NOW - dt.timedelta(days=1)):
        given_cycle = cycle(state=state, deadline_at=deadline)
        assert rules.redeem(given_cycle, config(), reported, NOW, "the same") == Redeemed(repeated=True)
        assert rules.redeem(given_cycle, config(), reported, NOW, None) == Redeemed(repeated=True)
        other = rules.redeem(given_cycle, config(), reported, NOW, "another")
        assert isinstance(other, Conflict)
        assert other.code == "already_reported"


def test_a_key_is_good_while_its_cycle_is_open() -> None:
    for state, assignment, left_s, fingerprint in itertools.product(
        CycleState, (AssignmentState.ASSIGNED, AssignmentState.EXPIRED), (None, 1, 0, -1), (None, "x")
    ):
        deadline = None if left_s is None else NOW + dt.timedelta(seconds=left_s)
        outcome = rules.redeem(cycle(state=state, deadline_at=deadline), config(), own(assignment), NOW, fingerprint)
        if state is CycleState.OPEN and assignment is AssignmentState.ASSIGNED and left_s in (None, 1):
            assert outcome == Redeemed(repeated=False)
        else:
            assert isinstance(outcome, Gone)
            assert (outcome.code, outcome.fields) == ("cycle_closed", {"cycle": 5})


# -- accept ------------------------------------------------------------------------------------------------------------


def test_a_batch_closes_its_cycle_and_refuses_the_rest() -> None:
    given_config, now_is = config(min_diffs=2, max_diffs=2), cycle(num_assigned=4)
    outcomes = []
    for number in range(3):
        offered = FoundReport(given_config, Assignment(number, 1, str(number), AssignmentState.ASSIGNED), "x")
        now_is, outcome = rules.accept(now_is, offered, NOW)
        outcomes.append(outcome)
    first, second, third = outcomes
    assert isinstance(first, AcceptedReport)
    assert (first.due, first.assignment.state) == (Due.NOTHING, AssignmentState.REPORTED)
    assert isinstance(second, AcceptedReport)
    assert second.due is Due.CLOSE
    assert isinstance(third, Gone)
    assert (now_is.state, now_is.num_reports) == (CycleState.CLOSING, 2)
    again = rules.accept(now_is, FoundReport(given_config, first.assignment, "x"), NOW)
    assert again == (now_is, RepeatedReport())
    changed, refused = rules.accept(now_is, FoundReport(given_config, first.assignment, "y"), NOW)
    assert (changed, isinstance(refused, Conflict)) == (now_is, True)


def test_the_first_report_after_the_deadline_begins_the_grace() -> None:
    late = cycle(num_assigned=3, deadline_at=NOW)
    offered = FoundReport(config(grace_s=30), own(AssignmentState.ASSIGNED), "x")
    after, outcome = rules.accept(late, offered, NOW)
    assert isinstance(outcome, AcceptedReport)
    assert (outcome.due, after.num_reports, after.grace_until) == (Due.GRACE, 1, NOW + dt.timedelta(seconds=30))


def test_folded_admissions_see_the_places_that_others_took() -> None:
    given_config = config(min_workers=2, max_workers=2)
    hosted = cycle(state=CycleState.HOSTED, opened_at=None, deadline_at=None)
    same, refused = rules.admit(hosted, FoundApplicant(given_config), NOW)
    assert same == hosted
    assert isinstance(refused, AdmissionRefusal)
    assert refused.reason == "waiting_for_workers"
    now_is, outcomes = hosted, []
    for _ in range(3):
        now_is, outcome = rules.admit(now_is, FoundApplicant(given_config, is_quorum=True), NOW)
        outcomes.append(outcome)
    assert outcomes[:2] == [Admitted(is_opening=True), Admitted(is_opening=False)]
    assert isinstance(outcomes[2], AdmissionRefusal)
    assert outcomes[2].reason == "cycle_full"
    assert (now_is.state, now_is.num_assigned, now_is.deadline_at) == (CycleState.OPEN, 2, LATER)


def test_an_admission_counts_a_client_once() -> None:
    for assignment, num_assigned in (
        (None, 1),
        (own(AssignmentState.EXPIRED), 1),
        (own(AssignmentState.ASSIGNED), 0),
    ):
        after, outcome = rules.admit(cycle(), FoundApplicant(config(), assignment, may_renew=True), NOW)
        assert outcome == Admitted(is_opening=False)
        assert after.num_assigned == num_assigned


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"process_state": "finished"}, "training_finished"),
        ({"process_state": "paused"}, "process_paused"),
        ({"has_left": True}, "training_finished"),
        ({"own": own(AssignmentState.ASSIGNED)}, "already_assigned"),
        ({"last_sequence": 4}, "resting"),
    ],
)
def test_a_refused_admission_changes_nothing(fields: dict[str, Any], reason: str) -> None:
    before = cycle()
    found = FoundApplicant(config(do_not_reuse_workers_until_cycle=1), **fields)
    after, outcome = rules.admit(before, found, NOW)
    assert after is before
    assert isinstance(outcome, AdmissionRefusal)
    assert outcome.reason == reason


def test_a_client_that_cannot_train_opens_no_cycle() -> None:
    hosted = cycle(state=CycleState.HOSTED, opened_at=None, deadline_at=None)
    found = FoundApplicant(config(min_workers=2), is_quorum=True, obstacle="no variant")
    after, outcome = rules.admit(hosted, found, NOW)
    assert after is hosted
    assert isinstance(outcome, InvalidInput)
    assert outcome.code == "plan_variant_unavailable"


# -- the machine -------------------------------------------------------------------------------------------------------


class CycleMachine(RuleBasedStateMachine):
    """Clients that come, report and leave, and a clock: the rules decide, the test keeps its own books."""

    @initialize(
        min_workers=st.sampled_from([0, 1, 3]),
        max_workers=st.sampled_from([None, 3, 5]),
        min_diffs=st.sampled_from([None, 1, 2]),
        max_diffs=st.sampled_from([None, 2, 3]),
        length=st.sampled_from([None, 60]),
        grace_s=st.sampled_from([0, 20]),
    )
    def host(
        self, min_workers: int, max_workers: int | None, min_diffs: Any, max_diffs: Any, length: Any, grace_s: int
    ) -> None:
        self.config = config(
            min_workers=min_workers,
            max_workers=max_workers,
            min_diffs=min_diffs,
            max_diffs=max_diffs,
            cycle_length=length,
            grace_s=grace_s,
        )
        self.now = NOW
        state = rules.next_cycle_state(self.config)
        opened = state is CycleState.OPEN
        self.cycle = cycle(
            state=state,
            num_assigned=0,
            opened_at=NOW if opened else None,
            deadline_at=rules.first_deadline(self.config, NOW) if opened else None,
        )
        self.assigned: dict[int, Assignment] = {}
        self.next_client = 0
        self.history = [state]

    def _become(self, changed: Cycle) -> None:
        if changed.state is not self.cycle.state or changed.attempt != self.cycle.attempt:
            self.history.append(changed.state)
        self.cycle = changed

    @precondition(lambda self: self.cycle.state is CycleState.HOSTED)
    @rule()
    def enough_ask(self) -> None:
        assert self._ask(None) is not None
        self._become(rules.open_cycle(self.cycle, self.config, self.now))

    def _ask(self, assignment: Assignment | None) -> AdmissionRefusal | None:
        return rules.find_refusal(self.cycle, FoundApplicant(self.config, assignment), self.now)

    @rule(again=st.booleans())
    def ask(self, again: bool) -> None:
        client = self.next_client - 1 if again and self.assigned else self.next_client
        assignment = self.assigned.get(client)
        if self._ask(assignment) is None:
            assert self.cycle.state is CycleState.OPEN
            assert assignment is None or assignment.state is AssignmentState.EXPIRED
            self.assigned[client] = Assignment(client, 1, str(client), AssignmentState.ASSIGNED)
            self.cycle = replace(self.cycle, num_assigned=self.cycle.num_assigned + 1)
            self.next_client = max(self.next_client, client + 1)

    @precondition(lambda self: self.assigned)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted(self.assigned)))
        assignment = self.assigned[client]
        offered = FoundReport(self.config, assignment, f"report of {client}")
        cycle, outcome = rules.accept(self.cycle, offered, self.now)
        if isinstance(outcome, AcceptedReport):
            assert assignment.state is AssignmentState.ASSIGNED
            self.assigned[client] = outcome.assignment
            if outcome.due is Due.CLOSE:
                assert cycle.num_reports >= self.config.needed_diffs
            self._become(cycle)
        else:
            assert cycle == self.cycle
            assert (outcome == RepeatedReport()) is (assignment.state is AssignmentState.REPORTED)
        self._schedule()

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def time_passes(self, seconds: int) -> None:
        self.now += dt.timedelta(seconds=seconds)
        self._schedule()

    def _schedule(self) -> None:
        match rules.due(self.cycle, self.config, self.now):
            case Due.CLOSE:
                assert self.cycle.num_reports >= self.config.needed_diffs
                self._become(rules.close(self.cycle))
            case Due.REOPEN:
                assert self.cycle.num_reports < self.config.needed_diffs
                assert not self.config.grace_s or self.cycle.grace_until is not None or not self._awaited()
                for client, assignment in self.assigned.items():
                    if assignment.state is AssignmentState.ASSIGNED:
                        self.assigned[client] = replace(assignment, state=AssignmentState.EXPIRED)
                self._become(rules.reopen(self.cycle, self.config, self.now))
                # The clock may jump, but one deadline ends one attempt.
                assert self.cycle.deadline_at is not None
                assert self.cycle.deadline_at > self.now
                assert self.cycle.grace_until is None
            case Due.GRACE:
                assert self._awaited()
                self._become(rules.begin_grace(self.cycle, self.config, self.now))
                assert rules.due(self.cycle, self.config, self.now) is Due.NOTHING

    def _awaited(self) -> bool:
        return any(assignment.state is AssignmentState.ASSIGNED for assignment in self.assigned.values())

    @invariant()
    def nobody_joins_in_the_time_of_grace(self) -> None:
        if self.cycle.grace_until is not None:
            assert self._ask(None) is not None

    @invariant()
    def counts_are_those_of_the_books(self) -> None:
        states = [assignment.state for assignment in self.assigned.values()]
        assert self.cycle.num_reports == states.count(AssignmentState.REPORTED)
        assert self.cycle.num_assigned == len(states) - states.count(AssignmentState.EXPIRED)
        if self.config.max_workers is not None:
            assert self.cycle.num_assigned <= self.config.max_workers
        if self.config.max_diffs is not None and not self.config.grace_s:
            assert self.cycle.num_reports <= self.config.max_diffs

    @invariant()
    def only_the_diagram_happens(self) -> None:
        allowed = {
            (CycleState.HOSTED, CycleState.OPEN),
            (CycleState.OPEN, CycleState.OPEN),
            (CycleState.OPEN, CycleState.CLOSING),
        }
        assert set(itertools.pairwise(self.history)) <= allowed

    @invariant()
    def an_open_cycle_can_still_get_on(self) -> None:
        """Nobody waits for ever: somebody may join, may report, or a deadline will come."""
        if self.cycle.state is CycleState.OPEN:
            assert self._ask(None) is None or self._awaited() or self.cycle.ends_at is not None


TestCycleMachine = CycleMachine.TestCase


@given(st.floats(0.001, 10_000))
def test_a_hint_never_sends_a_client_back_too_early(left_s: float) -> None:
    refusal = admit(cycle(num_assigned=1, deadline_at=NOW + dt.timedelta(seconds=left_s)), config(max_workers=1))
    assert refusal is not None
    assert refusal.timeout_s is not None
    assert left_s <= refusal.timeout_s + 1e-6 < left_s + 1 + 1e-5


@given(st.sampled_from([0.5, 4.0, 10.0, 3600.0]), st.integers(1, 10**5), st.floats(0.01, 0.99))
def test_windows_of_random_selection_end_at_multiples_of_their_length(window_s, number, part):
    now = dt.datetime.fromtimestamp((number + part) * window_s, dt.UTC)
    assert rules.window_left_s(now, window_s) == pytest.approx((1 - part) * window_s, abs=1e-5)
