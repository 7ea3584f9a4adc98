"""Entries of the audit log as sentences, and which actions have words."""

from __future__ import annotations

import pytest

from pygrid.privacy.ledger import ChargeState
from pygrid.ui.audit_words import ACTIONS, find_object, say_entry

ANN = "ann@example.org"


@pytest.mark.parametrize(
    ("actor", "action", "data", "sentence"),
    [
        (ANN, "job_released", {}, "ann@example.org released a result"),
        ("", "job_released", {}, "The app released a result"),
        ("", "job_started", {}, "A job started"),
        (ANN, "job_started", {}, "A job started (ann@example.org)"),
        (ANN, "budget_reserved", {}, "ann@example.org reserved the privacy cost of a job"),
        (ANN, "dataset_uploaded", {"dataset_id": 3}, "ann@example.org stored dataset 3"),
        (ANN, "dataset_uploaded", {}, "ann@example.org stored dataset ?"),
        ("", "new_action", {}, "The app new action"),
    ],
)
def test_an_entry_is_a_sentence(actor: str, action: str, data: dict[str, int], sentence: str) -> None:
    assert say_entry(actor, action, data) == sentence


def test_present_names_stand_for_the_number_that_was_recorded() -> None:
    data = {"dataset_id": 3, "user_id": 7}
    names = {"dataset_id": "patients", "user_id": "bob@example.org"}
    told = say_entry(ANN, "budget_granted", data, names)
    assert told == "ann@example.org gave account bob@example.org a share of the budget of dataset patients"
    assert say_entry(ANN, "budget_granted", data).endswith("gave account 7 a share of the budget of dataset 3")
    braces = say_entry(ANN, "dataset_deleted", {"dataset_id": 3}, {"dataset_id": "{0.__class__}"})
    assert braces == "ann@example.org deleted dataset {0.__class__}"
    assert find_object(data) == ("dataset 3", "/admin/datasets/3")
    assert find_object({"job_id": "../x", "name": "y"}) == ("", "")


def test_each_state_of_a_charge_has_words() -> None:
    states = {f"charge_{state}" for state in ChargeState if state is not ChargeState.RESERVED}
    assert states <= ACTIONS.keys()
