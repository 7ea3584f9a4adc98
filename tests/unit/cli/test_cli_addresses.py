"""The address that a started app prints: other commands take it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pygrid.cli.serve import shown_address
from pygrid.settings import load_settings
from pygrid.transport.address import check_url


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("::1", "http://[::1]:5000"),
        ("2001:db8::7", "http://[2001:db8::7]:5000"),
        ("domain.example", "http://domain.example:5000"),
    ],
)
def test_an_address_has_brackets_where_it_needs_them(host: str, shown: str, tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path, host=host, secret_key="s" * 32)
    assert shown_address(settings, 5000) == shown
    assert check_url(shown) == shown
