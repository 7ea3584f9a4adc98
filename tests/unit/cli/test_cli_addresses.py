"""The address that a started app prints: other commands take it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pygrid.cli.serve import _listen, shown_address
from pygrid.errors import InvalidConfig
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


def test_a_port_that_needs_more_rights_is_not_taken_for_one_in_use(tmp_path: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 99:
        pytest.skip("every user may listen on every port here")
    "host".encode("idna")  # loaded while the standard library can be read
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(InvalidConfig, match="Ports below 1024 need more rights"):
            _listen(load_settings({}, data_dir=tmp_path, port=99))
    finally:
        os.seteuid(was)
