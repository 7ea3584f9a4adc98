"""The page on roles has the permissions and roles that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest
import reference

from pygrid.core.access import DOMAIN_ACCESS, NETWORK_ACCESS, AppAccess, Permission
from pygrid.messages.accounts import PERMISSIONS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "roles.md"


@pytest.mark.parametrize("access", [DOMAIN_ACCESS, NETWORK_ACCESS])
def test_the_page_has_the_table(access: AppAccess) -> None:
    table = reference.roles_table(access)
    assert table in PAGE.read_text(), f"write this into {PAGE.name}:\n{table}"


def test_each_permission_is_described() -> None:
    assert list(PERMISSIONS) == [str(permission) for permission in Permission]
