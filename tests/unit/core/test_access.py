"""The rules of access, for every actor, target and role that can meet.

Should happen: an Owner may do everything but leave the Domain without one; people may change themselves and step down.
Should not happen: anybody ends with, hands out, or takes over more than they had.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.core.access import (
    ADMINISTRATOR,
    COMPLIANCE_OFFICER,
    DEFAULT_ROLES,
    DOMAIN_PERMISSIONS,
    NETWORK_PERMISSIONS,
    NETWORK_ROLES,
    OWNER,
    USER,
    AccessRefusal,
    Permission,
    Principal,
    Role,
    can_change_role,
    can_define_role,
    can_delete_user,
    can_edit_role,
    can_give_role,
    can_manage_user,
)

permissions = st.frozensets(st.sampled_from(list(Permission)))
roles = st.sampled_from(DEFAULT_ROLES) | st.builds(Role, st.integers(5, 9), st.just("made"), permissions)
ids = st.integers(1, 3)


def test_the_default_roles_are_the_published_ones() -> None:
    table = {role.name: [permission in role.permissions for permission in DOMAIN_PERMISSIONS] for role in DEFAULT_ROLES}
    assert list(table) == ["User", "Compliance Officer", "Administrator", "Owner", "Model Owner"]
    assert [role.id for role in DEFAULT_ROLES] == [1, 2, 3, 4, 5]
    assert table["User"] == [False] * 8
    assert table["Compliance Officer"] == [True] + [False] * 7
    assert table["Administrator"] == [True, True, True, True, False, False, True, True]
    assert table["Owner"] == [True] * 8
    assert table["Model Owner"] == [False] * 7 + [True]
    assert not any(Permission.MANAGE_NODES in role.permissions for role in DEFAULT_ROLES)


def test_a_network_has_roles_of_its_own_with_the_same_ids() -> None:
    table = {
        (role.id, role.name): [permission in role.permissions for permission in NETWORK_PERMISSIONS]
        for role in NETWORK_ROLES
    }
    assert [str(permission) for permission in NETWORK_PERMISSIONS] == [
        "can_edit_settings",
        "can_create_users",
        "can_edit_roles",
        "can_manage_nodes",
    ]
    assert table == {
        (1, "User"): [False] * 4,
        (3, "Administrator"): [True, True, False, True],
        (4, "Owner"): [True] * 4,
    }
    assert all(role.permissions <= set(NETWORK_PERMISSIONS) for role in NETWORK_ROLES)


@given(ids, roles, ids, roles, roles, st.integers(1, 3))
def test_nobody_gives_a_role_beyond_their_own(
    actor_id: int, actor_role: Role, target_id: int, target_role: Role, new_role: Role, num_owners: int
) -> None:
    actor = Principal(actor_id, actor_role)
    if actor_id == target_id:
        target_role = actor_role
    if can_change_role(actor, target_id, target_role, new_role, num_owners) is None:
        assert new_role.permissions <= actor_role.permissions
        assert target_role.permissions <= actor_role.permissions
        assert actor_id == target_id or actor.may(Permission.CREATE_USERS)
    if can_give_role(actor, new_role) is None:
        assert actor.may(Permission.CREATE_USERS)
        assert new_role.permissions <= actor_role.permissions


@given(ids, roles, roles)
def test_nobody_raises_themselves(user_id: int, own: Role, wanted: Role) -> None:
    actor = Principal(user_id, own)
    if can_change_role(actor, user_id, own, wanted, num_owners=2) is None:
        assert not wanted.permissions - own.permissions


@given(ids, roles, ids, roles)
def test_nobody_takes_over_an_account_above_them(
    actor_id: int, actor_role: Role, target_id: int, target_role: Role
) -> None:
    """Whoever may set a password may log in as that user."""
    if actor_id != target_id and can_manage_user(Principal(actor_id, actor_role), target_id, target_role) is None:
        assert target_role.permissions <= actor_role.permissions


@given(st.lists(roles, min_size=1, max_size=4), st.data())
def test_whatever_is_allowed_an_owner_is_left(assigned: list[Role], data: st.DataObject) -> None:
    """A small Domain, in which people change and delete each other as far as they may."""
    users = {1: OWNER, **dict(enumerate(assigned, start=2))}
    for _ in range(10):
        actor_id, target_id = data.draw(st.sampled_from(sorted(users))), data.draw(st.sampled_from(sorted(users)))
        num_owners = sum(role.id == OWNER.id for role in users.values())
        actor = Principal(actor_id, users[actor_id])
        if data.draw(st.booleans()):
            if can_delete_user(actor, target_id, users[target_id], num_owners) is None:
                del users[target_id]
        else:
            new_role = data.draw(roles)
            if can_change_role(actor, target_id, users[target_id], new_role, num_owners) is None:
                users[target_id] = new_role
    assert OWNER in users.values()


def test_the_last_owner_can_neither_step_down_nor_be_deleted() -> None:
    owner = Principal(1, OWNER)
    for role in (USER, COMPLIANCE_OFFICER, ADMINISTRATOR):
        assert can_change_role(owner, 1, OWNER, role, num_owners=1) is AccessRefusal.LAST_OWNER
        assert can_change_role(owner, 1, OWNER, role, num_owners=2) is None
    assert can_change_role(owner, 1, OWNER, OWNER, num_owners=1) is None
    assert can_delete_user(owner, 1, OWNER, num_owners=1) is AccessRefusal.LAST_OWNER
    assert can_delete_user(owner, 1, OWNER, num_owners=2) is None


def test_refusals_say_why() -> None:
    assert can_change_role(Principal(2, USER), 2, USER, OWNER, 1) is AccessRefusal.BEYOND_OWN
    assert can_change_role(Principal(2, USER), 3, USER, USER, 1) is AccessRefusal.MISSING_PERMISSION
    assert can_change_role(Principal(2, ADMINISTRATOR), 1, OWNER, USER, 2) is AccessRefusal.TARGET_OUTRANKS
    assert can_give_role(Principal(2, COMPLIANCE_OFFICER), USER) is AccessRefusal.MISSING_PERMISSION
    assert can_give_role(Principal(2, ADMINISTRATOR), OWNER) is AccessRefusal.BEYOND_OWN
    assert can_delete_user(Principal(2, USER), 3, USER, 1) is AccessRefusal.MISSING_PERMISSION


@given(roles, roles, permissions)
def test_a_role_is_defined_within_ones_own(actor_role: Role, role: Role, wanted: frozenset[Permission]) -> None:
    actor = Principal(1, actor_role)
    for refusal in (can_define_role(actor, wanted), can_edit_role(actor, role, wanted)):
        if refusal is None:
            assert wanted <= actor_role.permissions
            assert actor.may(Permission.EDIT_ROLES)


@pytest.mark.parametrize("role", [USER, OWNER])
def test_user_and_owner_stay_as_they_are(role: Role) -> None:
    assert can_edit_role(Principal(1, OWNER), role, role.permissions) is AccessRefusal.BUILT_IN


def test_an_owner_edits_the_other_roles() -> None:
    for role in (COMPLIANCE_OFFICER, ADMINISTRATOR, Role(9, "made", frozenset(DOMAIN_PERMISSIONS))):
        assert can_edit_role(Principal(1, OWNER), role, frozenset()) is None
