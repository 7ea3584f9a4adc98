"""Settings: which values are used, and which are refused and how.

Should happen: a start with nothing configured is safe; flags win over the environment, the environment over defaults.
Should not happen: a Domain that others reach has a missing, short or known secret, or is open as in 2020.
"""

from __future__ import annotations

import dataclasses
import re
import stat
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

import pytest
import typer.main

from pygrid.cli import network as network_command
from pygrid.cli.domain import app, banner
from pygrid.errors import InvalidConfig
from pygrid.settings import (
    AppSettings,
    DomainSettings,
    NetworkSettings,
    load_network_settings,
    load_settings,
    with_secret,
)

GOOD_SECRET = "0123456789abcdef0123456789abcdef"


def test_with_nothing_configured_only_this_machine_gets_in() -> None:
    settings = load_settings({})
    assert settings.is_loopback
    assert (settings.host, settings.port, settings.id) == ("127.0.0.1", 5000, "domain")
    # Whole paths: processes that work in another folder are told of them.
    assert settings.data_dir == Path.cwd() / "pygrid-data"
    assert settings.database_url == f"sqlite:///{Path.cwd()}/pygrid-data/domain.db"
    assert settings.open_signup
    assert not settings.legacy_open


def test_published_variables_are_read() -> None:
    settings = load_settings(
        {
            "GRID_NODE_HOST": "localhost",
            "GRID_NODE_PORT": "3000",
            "NODE_ID": "bob",
            "NUM_REPLICAS": "2",
            "DATABASE_URL": "postgresql://me@db/grid",
            "SECRET_KEY": GOOD_SECRET,
            "NETWORK": "http://network:7000",
        }
    )
    assert (settings.host, settings.port, settings.id, settings.num_replicas) == ("localhost", 3000, "bob", 2)
    assert (settings.database_url, settings.secret_key) == ("postgresql://me@db/grid", GOOD_SECRET)
    assert settings.network == "http://network:7000"


def test_flags_win_over_the_environment_which_wins_over_defaults() -> None:
    env = {"GRID_NODE_PORT": "3000", "NODE_ID": "bob", "PYGRID_OPEN_SIGNUP": "no"}
    settings = load_settings(env, port=4000, id=None, open_signup=None)
    assert (settings.port, settings.id, settings.open_signup) == (4000, "bob", False)
    assert load_settings(env, open_signup=True).open_signup


def test_older_names_of_variables_count_where_the_present_one_is_not_set() -> None:
    assert load_settings({"PORT": "3000", "N_REPLICAS": "2"}).port == 3000
    assert load_settings({"PORT": "3000", "N_REPLICAS": "2"}).num_replicas == 2
    assert load_settings({"PORT": "3000", "GRID_NODE_PORT": "4000"}).port == 4000
    assert load_settings({"PORT": "3000", "GRID_NODE_PORT": ""}).port == 3000
    assert load_network_settings({"PORT": "3000"}).port == 3000
    with pytest.raises(InvalidConfig, match=r"^PORT is 'x'"):
        load_settings({"PORT": "x"})


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings({"GRID_NODE_PORT": "", "SECRET_KEY": "", "NETWORK": ""}) == load_settings({})


def test_strangers_sign_up_on_loopback_only_unless_told() -> None:
    assert not load_settings({}, host="0.0.0.0").open_signup
    assert load_settings({}, host="0.0.0.0", open_signup=True).open_signup
    assert load_settings({}, host="::1").open_signup


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"GRID_NODE_PORT": "http"}, "GRID_NODE_PORT"),
        ({"GRID_NODE_PORT": "70000"}, "GRID_NODE_PORT"),
        ({"NUM_REPLICAS": "0"}, "NUM_REPLICAS"),
        ({"NUM_REPLICAS": "many"}, "NUM_REPLICAS"),
        ({"NODE_ID": " "}, "NODE_ID"),
        ({"NODE_ID": "a\nb"}, "NODE_ID"),
        ({"NETWORK": "network:7000"}, "NETWORK"),
        ({"PYGRID_OPEN_SIGNUP": "perhaps"}, "PYGRID_OPEN_SIGNUP"),
        ({"PYGRID_LOG_LEVEL": "loud"}, "PYGRID_LOG_LEVEL"),
        ({"PYGRID_LOG_FORMAT": "xml"}, "PYGRID_LOG_FORMAT"),
        ({"PYGRID_SHUTDOWN_S": "-1"}, "PYGRID_SHUTDOWN_S"),
        ({"PYGRID_NUM_WORKERS": "0"}, "PYGRID_NUM_WORKERS"),
        ({"PYGRID_JOB_MEMORY_MB": "1"}, "PYGRID_JOB_MEMORY_MB"),
        ({"PYGRID_JOB_WALL_S": "0"}, "PYGRID_JOB_WALL_S"),
        ({"PYGRID_JOB_ANSWERS_MB": "0"}, "PYGRID_JOB_ANSWERS_MB"),
        ({"PYGRID_KEEP_RESULTS_DAYS": "-1"}, "PYGRID_KEEP_RESULTS_DAYS"),
        ({"PYGRID_KEEP_RESULTS_DAYS": "1000000"}, "PYGRID_KEEP_RESULTS_DAYS"),
        ({"PYGRID_INFERENCE_MODELS": "0"}, "PYGRID_INFERENCE_MODELS"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_settings(env)
    assert refused.value.code == "invalid_setting"
    assert refused.value.detail.startswith(named)
    assert repr(next(iter(env.values()))) in refused.value.detail


@pytest.mark.parametrize("secret", ["hunter2", "justasecretkeythatishouldputhere"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_short_or_known_secret_is_refused_and_not_repeated(secret: str, host: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_settings({"SECRET_KEY": secret}, host=host)
    assert refused.value.code == "secret_key_short"
    assert secret not in refused.value.detail


def test_a_data_folder_of_somebody_else_is_told() -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pygrid.errors import InvalidConfig\n"
        "from pygrid.settings import make_data_dir\n"
        "if os.getuid() == 0:\n"
        "    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try:\n"
        "    make_data_dir(Path(sys.argv[1]))\n"
        "except InvalidConfig as refused:\n"
        "    print(os.getuid(), refused.code, refused.detail)\n"
    )
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "data")
        folder.mkdir()
        # What a folder that root has mounted into a container is to the container's user.
        folder.chmod(0o555)
        Path(outer).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=180, check=True
        )
        user, code, told = done.stdout.split(" ", 2)
        assert code == "invalid_data_dir"
        assert (
            f"user {user} cannot write to the data folder {folder}: make that user its owner (chown {user} FOLDER)"
            in told
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_a_domain_that_others_reach_needs_a_secret(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as refused:
        with_secret(load_settings({}, host=host, data_dir=tmp_path))
    assert refused.value.code == "secret_key_missing"
    assert "export SECRET_KEY=" in refused.value.detail
    assert list(tmp_path.iterdir()) == []
    assert with_secret(load_settings({"SECRET_KEY": GOOD_SECRET}, host=host)).secret_key == GOOD_SECRET


def test_on_loopback_a_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path / "data")
    first = with_secret(settings).secret_key
    assert len(first) >= 32
    assert with_secret(settings).secret_key == first
    assert stat.S_IMODE((tmp_path / "data" / "secret-key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert first not in repr(with_secret(settings))


def test_a_damaged_secret_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_text("")
    with pytest.raises(InvalidConfig, match="secret-key holds no secret key"):
        with_secret(load_settings({}, data_dir=tmp_path))


def test_the_open_interface_of_2020_stays_on_this_machine() -> None:
    assert load_settings({"PYGRID_LEGACY_OPEN": "1"}).legacy_open
    with pytest.raises(InvalidConfig) as refused:
        load_settings({"PYGRID_LEGACY_OPEN": "1"}, host="0.0.0.0")
    assert refused.value.code == "legacy_open_refused"


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="colour"):
        load_settings({}, colour="red")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PYGRID_DATABASE_URL", "DATABASE_URL"),
        ("PYGRID_PORT", "GRID_NODE_PORT"),
        ("PYGRID_SECRET_KEY", "SECRET_KEY"),
        ("PYGRID_OPEN_SINGUP", "PYGRID_OPEN_SIGNUP"),
        ("PYGRID_TRUSTED_PROXY", "PYGRID_TRUSTED_PROXIES"),
    ],
)
def test_a_variable_that_was_meant_for_a_setting_is_refused(name: str, meant: str) -> None:
    with pytest.raises(InvalidConfig, match=f"{name} is not .* did you mean {meant}[?]"):
        load_settings({name: "7"})
    with pytest.raises(InvalidConfig, match=f"{name} is not .* did you mean {meant.replace('NODE', 'NETWORK')}[?]"):
        load_network_settings({name: "7"})


def test_variables_of_other_programs_are_not_refused() -> None:
    others = ("PYGRID_URL", "PYGRID_TOKEN", "PYGRID_CA_FILE", "PYGRID_REPLICA_1", "PYGRID_SERVICE_HOST", "PYGRID_SQL")
    sources = Path(__file__).parents[2].glob("src/pygrid/c*/*.py")
    read = set(re.findall(r"\bPYGRID_[A-Z0-9_]+\b", "".join(map(Path.read_text, sources))))
    settings = {field.metadata["env"] for _, field in FIELDS}
    load_settings(dict.fromkeys({*others, *read} - settings, "7") | {"PYGRID_PORT": "tcp://10.0.0.1:5000"})


FIELDS = [(kind, field) for kind in (DomainSettings, NetworkSettings) for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("settings", "field"), FIELDS, ids=lambda value: getattr(value, "name", getattr(value, "__name__", ""))
)
def test_a_value_outside_the_limits_of_a_field_is_refused(
    settings: type[AppSettings], field: dataclasses.Field[object]
) -> None:
    load = load_settings if settings is DomainSettings else load_network_settings
    low, high, choices = (field.metadata[key] for key in ("min", "max", "choices"))
    kind = typing.get_type_hints(settings)[field.name]
    assert choices == typing.get_args(kind)
    assert (low is not None) == (kind is int)
    outside = [value for value in (low is not None and low - 1, high is not None and high + 1) if value is not False]
    for value in [*outside, *(["other"] if choices else [])]:
        with pytest.raises(InvalidConfig, match=re.escape(field.metadata["env"])) as refused:
            load({}, **{field.name: value})
        assert refused.value.code == "invalid_setting"
        assert all(str(allowed) in refused.value.detail for allowed in (low, high, *choices) if allowed is not None)
    for value in (low, high, *choices):
        if value is not None:
            assert getattr(load({}, **{field.name: value}), field.name) == value


@pytest.mark.parametrize(("commands", "settings"), [(app, DomainSettings), (network_command.app, NetworkSettings)])
def test_every_setting_with_a_flag_can_be_given_on_the_command_line(
    commands: typer.Typer, settings: type[AppSettings]
) -> None:
    parameters = {parameter.name for parameter in typer.main.get_command(commands).params}
    assert {field.name for field in dataclasses.fields(settings) if field.metadata["flag"]} <= parameters


def test_a_domain_whose_network_is_elsewhere_is_not_on_this_machine_alone(tmp_path: Path) -> None:
    here = load_settings({}, network="http://127.0.0.1:7000", data_dir=tmp_path)
    assert (here.is_loopback, here.open_signup) == (True, True)
    there = load_settings({}, network="https://network.example", data_dir=tmp_path)
    assert (there.is_loopback, there.open_signup) == (False, False)
    with pytest.raises(InvalidConfig, match="through the Network https:") as refused:
        with_secret(there)
    assert refused.value.code == "secret_key_missing"
    with pytest.raises(InvalidConfig) as refused:
        load_settings({}, network="https://network.example", legacy_open=True)
    assert refused.value.code == "legacy_open_refused"


def test_what_a_domain_publishes() -> None:
    assert load_settings({}).published_counts == ()
    assert load_settings({}, publish="jobs,datasets").published_counts == ("datasets", "jobs")
    assert len(load_settings({}, publish="all").published_counts) == 6
    with pytest.raises(InvalidConfig, match="PYGRID_PUBLISH"):
        load_settings({"PYGRID_PUBLISH": "datasets,secrets"})


def test_an_invitation_is_not_shown() -> None:
    assert "hush" not in repr(load_settings({"PYGRID_INVITATION": "hush"}))
    assert GOOD_SECRET not in repr(load_network_settings({"PYGRID_INVITATION": GOOD_SECRET}))


def test_an_invitation_that_can_be_guessed_is_refused() -> None:
    for short_or_long in (GOOD_SECRET[:-1], "x" * 201):
        with pytest.raises(InvalidConfig) as refused:
            load_network_settings({"PYGRID_INVITATION": short_or_long})
        assert refused.value.code == "invitation_short"
        assert short_or_long not in refused.value.detail


@pytest.mark.parametrize("name", ["a b", "a/b", "-a", "é"])
def test_a_name_that_no_network_takes_is_told_at_the_start(name: str) -> None:
    assert load_settings({"NODE_ID": name}).id == name
    with pytest.raises(InvalidConfig, match="NODE_ID"):
        load_settings({"NODE_ID": name}, network="http://127.0.0.1:7000")


def test_a_network_with_nothing_configured_is_open_to_this_machine_alone(tmp_path: Path) -> None:
    settings = load_network_settings({}, data_dir=tmp_path)
    assert (settings.host, settings.port, settings.id, settings.heartbeat_s) == ("127.0.0.1", 7000, "network", 10)
    assert (settings.is_loopback, settings.open_signup, settings.open_relay) == (True, True, True)
    assert (settings.allow_private_addresses, settings.legacy_open) == (True, False)
    assert settings.database_url == f"sqlite:///{tmp_path / 'network.db'}"
    far = load_network_settings({"GRID_NETWORK_HOST": "0.0.0.0", "GRID_NETWORK_PORT": "7001"})
    assert (far.host, far.port) == ("0.0.0.0", 7001)
    assert [far.is_loopback, far.open_signup, far.open_relay, far.allow_private_addresses] == [False] * 4
    with pytest.raises(InvalidConfig) as refused:
        with_secret(far)
    assert refused.value.code == "secret_key_missing"


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"GRID_NETWORK_PORT": "-1"}, "GRID_NETWORK_PORT"),
        ({"NUM_REPLICAS": "0"}, "NUM_REPLICAS"),
        ({"ADDRESS": "network.example"}, "ADDRESS"),
        ({"PYGRID_HEARTBEAT_S": "0"}, "PYGRID_HEARTBEAT_S"),
        ({"PYGRID_HEARTBEAT_S": "601"}, "PYGRID_HEARTBEAT_S"),
        ({"PYGRID_OPEN_RELAY": "perhaps"}, "PYGRID_OPEN_RELAY"),
        ({"NODE_ID": "a\nb"}, "NODE_ID"),
    ],
)
def test_a_value_that_makes_no_sense_for_a_network_is_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_network_settings(env)
    assert refused.value.code == "invalid_setting"
    assert refused.value.detail.startswith(named)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, "PostgreSQL"),
        ({"DATABASE_URL": "sqlite:////tmp/x.db", "SECRET_KEY": "k" * 32}, "PostgreSQL"),
        ({"DATABASE_URL": "postgresql://db.example/network"}, "SECRET_KEY"),
    ],
)
def test_replicas_of_a_network_need_what_they_share(env: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidConfig, match=f"PYGRID_REPLICATED needs .*{named}") as refused:
        load_network_settings({**env, "PYGRID_REPLICATED": "1"})
    assert refused.value.code == "invalid_setting"


def test_the_open_network_of_2020_stays_on_this_machine() -> None:
    assert load_network_settings({"PYGRID_LEGACY_OPEN": "1"}).legacy_open
    with pytest.raises(InvalidConfig) as refused:
        load_network_settings({"PYGRID_LEGACY_OPEN": "1"}, host="0.0.0.0")
    assert refused.value.code == "legacy_open_refused"


def test_the_banner_of_a_network_tells_where_it_is_and_how_to_join() -> None:
    text = network_command.banner(load_network_settings({}), 7001, has_owner=False)
    assert "Network network is ready." in text
    assert "pygrid login http://127.0.0.1:7001 --sign-up" in text
    assert "pygrid domain --network http://127.0.0.1:7001" in text


def test_the_banner_tells_where_the_domain_is_and_what_to_do_first(tmp_path: Path) -> None:
    settings = load_settings({}, data_dir=tmp_path, id="bob", network="http://net:7000")
    text = banner(settings, 5001, has_owner=False, identity="ed25519:abc")
    assert "identity     ed25519:abc" in text
    assert "Domain bob is ready." in text
    assert "http://127.0.0.1:5001" in text
    assert str(tmp_path) in text
    assert "pygrid login http://127.0.0.1:5001 --sign-up" in text
    assert "http://net:7000" in text
    assert "callers that the Network relays" in text
    assert "sign-up --email" not in banner(settings, 5001, has_owner=True, identity="ed25519:abc")
