"""Who manages a process: its creator, while their role may upload, and Owners."""

from __future__ import annotations

import pytest

from pygrid.core.access import ADMINISTRATOR, COMPLIANCE_OFFICER, OWNER, USER, Principal, Role
from pygrid.core.processes import can_manage


@pytest.mark.parametrize(
    ("role", "created_by", "is_allowed"),
    [
        (ADMINISTRATOR, 7, True),
        (ADMINISTRATOR, 8, False),
        (ADMINISTRATOR, None, False),
        (USER, 7, False),
        (COMPLIANCE_OFFICER, 7, False),
        (OWNER, 7, True),
        (OWNER, 8, True),
        (OWNER, None, True),
    ],
)
def test_the_creator_and_owners_manage_a_process(role: Role, created_by: int | None, is_allowed: bool) -> None:
    assert can_manage(Principal(7, role), created_by) is is_allowed
