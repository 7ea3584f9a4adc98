"""Which Domain, and with which token.

Should happen: what is given wins over the environment, the environment over what was kept; the file is for its owner's
eyes. Should not: a token sent to a Domain that it is not for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pygrid.client import connect, connect_network, credentials_file
from pygrid.client.credentials import (
    choose_network_url,
    choose_url,
    find_network_token,
    find_token,
    forget_token,
    load_credentials,
    remember_token,
)
from pygrid.errors import InvalidInput
from pygrid.transport.identity import Identity

HERE, THERE = "http://here:5000", "http://there:5000"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("PYGRID_URL", "PYGRID_TOKEN", "PYGRID_NETWORK_URL", "PYGRID_NETWORK_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_tokens_are_kept_by_address_for_the_owners_eyes() -> None:
    remember_token(HERE, "first")
    path = remember_token(THERE, "second")
    assert path == credentials_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert (find_token(HERE), find_token(THERE), find_token("http://other")) == ("first", "second", None)
    assert choose_url(None) == THERE
    assert connect().url == THERE
    assert connect(HERE + "/").token == "first"


def test_the_last_network_is_another_thing_than_the_last_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_token(HERE, "domain's")
    remember_token(THERE, "network's", is_network=True)
    assert (choose_url(None), choose_network_url(None)) == (HERE, THERE)
    assert (connect().token, connect_network().token) == ("domain's", "network's")
    monkeypatch.setenv("PYGRID_NETWORK_URL", "http://elsewhere:7000")
    assert choose_network_url(None) == "http://elsewhere:7000"
    assert choose_network_url(HERE) == HERE


def test_a_forgotten_token_is_gone() -> None:
    remember_token(HERE, "first")
    assert forget_token(HERE) is True
    assert forget_token(HERE) is False
    assert find_token(HERE) is None
    assert "first" not in credentials_file().read_text()


def test_the_environment_wins_over_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    remember_token(THERE, "kept")
    monkeypatch.setenv("PYGRID_URL", HERE + "/")
    monkeypatch.setenv("PYGRID_TOKEN", "given")
    assert (choose_url(None), find_token(HERE)) == (HERE, "given")
    assert choose_url(THERE) == THERE
    assert find_token(THERE) == "kept"  # the token of the environment is for its address


def test_a_token_without_an_address_goes_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGRID_TOKEN", "given")
    assert find_token(HERE) == "given"


def test_without_an_address_the_way_to_one_is_told() -> None:
    with pytest.raises(InvalidInput, match="PYGRID_NETWORK_URL"):
        choose_network_url(None)
    with pytest.raises(InvalidInput, match="pygrid login http://HOST:PORT"):
        connect()


def test_a_damaged_file_is_named() -> None:
    credentials_file().parent.mkdir(parents=True)
    credentials_file().write_text("{")
    with pytest.raises(InvalidInput, match=r"credentials.json can't be read"):
        load_credentials()


def test_a_token_never_shows() -> None:
    assert "s3cret" not in repr(connect(HERE, "s3cret")) + connect(HERE, "s3cret")._repr_html_()


def test_a_network_is_shown_what_is_meant_for_it_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network, other = "http://127.0.0.1:7000", "http://127.0.0.2:7000"
    remember_token(network, "kept")
    monkeypatch.setenv("PYGRID_TOKEN", "the Domain's")
    assert (find_network_token(network), find_network_token(other)) == ("kept", None)
    monkeypatch.setenv("PYGRID_NETWORK_TOKEN", "given")
    assert (find_network_token(network), find_network_token(other)) == ("given", "given")
    monkeypatch.setenv("PYGRID_NETWORK_URL", f"{other}/")
    assert (find_network_token(network), find_network_token(other)) == ("kept", "given")


def test_a_domain_behind_a_network_has_its_token_whether_its_identity_is_named_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "grid+http://127.0.0.1:7000/hospital-a"
    pinned = f"{address}?identity={Identity.make().key}"
    with connect(pinned, token="t") as domain:
        assert domain.url == address
    remember_token(address, "kept")
    with connect(pinned) as domain:
        assert domain.token == "kept"
    monkeypatch.setenv("PYGRID_TOKEN", "given")
    monkeypatch.setenv("PYGRID_URL", pinned)
    with connect() as domain:
        assert (domain.url, domain.token) == (address, "given")


def test_a_folder_that_cannot_be_written_is_named_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match=r"cannot be kept in .*XDG_CONFIG_HOME to a folder.*PYGRID_TOKEN"):
        remember_token(HERE, "first")
