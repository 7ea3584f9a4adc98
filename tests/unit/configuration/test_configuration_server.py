"""What a model owner may configure.

Should happen: every value in its range is kept as given, defaults are filled in, secrets are not shown.
Should not happen: a value out of range, of another type, not finite, unknown or at odds with another one is taken.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.aggregation.rules import Aggregation
from pygrid.configuration import Authentication, ServerConfig, read_server_config
from pygrid.errors import InvalidConfig

PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
"""


def read(**fields: Any) -> ServerConfig:
    return read_server_config({"cycle_length": 60, **fields})


def refused(**fields: Any) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as error:
        read(**fields)
    return error.value


NAMED = {"named_clients": True, "authentication": {"secret": "x" * 32}}
COUNTS = {"num_cycles": 0, "min_workers": 0, "do_not_reuse_workers_until_cycle": 0, "clients_per_subject": 1}
TOKENS = {"authentication": {"secret": "x" * 32}}
NEEDS: dict[str, dict[str, Any]] = {
    "clients_per_subject": TOKENS,
    "max_weight": {"aggregation": {"name": "mean"}},
    "pool_window_s": {"pool_selection": "random"},
}
"""What a field needs to have an effect."""
POSITIVE = {"max_workers": None, "min_diffs": None, "max_diffs": None, "max_weight": 10_000}
NUMBERS: dict[str, tuple[float, float, Any]] = {
    "cycle_length": (0.1, 366 * 24 * 3600.0, 60.0),
    "minimum_upload_speed": (0.0, 1e6, None),
    "minimum_download_speed": (0.0, 1e6, None),
    "pool_window_s": (0.0, 60.0, 1.0),
    "outlier_factor": (1.0, 1e6, msgspec.UNSET),
}
OPTIMIZER: dict[str, tuple[float, float, float]] = {
    "learning_rate": (1e-9, 1e6, 1.0),
    "tau": (1e-12, 1e6, 1e-3),
    "momentum": (0.0, 0.999_999, 0.9),
    "beta1": (0.0, 0.999_999, 0.9),
    "beta2": (0.0, 0.999_999, 0.99),
}


def test_only_cycle_length_must_be_given() -> None:
    config = read_server_config({"cycle_length": None})
    assert config == ServerConfig(cycle_length=None)
    expected = {
        **COUNTS,
        **POSITIVE,
        **{name: default for name, (_, _, default) in NUMBERS.items()},
        "cycle_length": None,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.pool_selection, config.authentication, config.iterative_plan) == ("iterate", None, False)
    with pytest.raises(InvalidConfig, match="cycle_length is required") as error:
        read_server_config({"num_cycles": 3})
    assert error.value.fields == {"field": "cycle_length"}


@pytest.mark.parametrize("name", [*COUNTS, *POSITIVE])
def test_counts_have_a_range(name: str) -> None:
    low = 0 if name in COUNTS else 1
    for good in (low, 7, 1_000_000):
        assert getattr(read(**{name: good, **NEEDS.get(name, {})}), name) == good
    for bad in (low - 1, -(10**9), 1_000_001, 10**30):
        error = refused(**{name: bad})
        assert error.code == "invalid_config"
        assert name in error.detail
    for bad in (1.5, "3", True, [1], {}, math.nan, math.inf):
        assert name in refused(**{name: bad}).detail


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_a_range(name: str) -> None:
    low, high, _ = NUMBERS[name]
    for good in (low, high, (low + high) / 2, int(high)):
        assert getattr(read(**{name: good, **NEEDS.get(name, {})}), name) == good
    for bad in (low - 1e-6, -1, high * 1.001, 1e300, math.nan, math.inf, -math.inf, 10**400):
        error = refused(**{name: bad})
        assert name in error.detail
    for bad in ("1", True, [], {}):
        assert name in refused(**{name: bad}).detail


@pytest.mark.parametrize("name", OPTIMIZER)
def test_the_optimizers_numbers_have_a_range(name: str) -> None:
    low, high, default = OPTIMIZER[name]
    users = "momentum" if name == "momentum" else "adam"
    assert getattr(read(server_optimizer={"name": users}).server_optimizer, name) == default
    for good in (low, high):
        assert getattr(read(server_optimizer={"name": users, name: good}).server_optimizer, name) == good
    for bad in (low - 1e-6 if low == 0 else low / 2, -1.0, high * 1.001, math.nan, math.inf, "1", None, True):
        assert name in refused(server_optimizer={name: bad}).detail


@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": 1},
        {"max_worker": 1},
        {"Cycle_length": 1},
        {"pool_selection": "lottery"},
        {"pool_selection": None},
        {"iterative_plan": 1},
        {"iterative_plan": "yes"},
        {"iterative_plan": None},
        {"server_optimizer": "adam"},
        {"server_optimizer": {"name": "lamb"}},
        {"server_optimizer": {"lr": 0.1}},
        {"server_optimizer": None},
        {"authentication": "secret"},
        {"authentication": {"secret": "short"}},
        {"authentication": {"secret": "é" * 15}},
        {"authentication": {"secret": 5}},
        {"authentication": {"pub_key": "key"}},
        {"authentication": {"pub_key": PUBLIC_KEY.replace("PUBLIC", "PRIVATE")}},
        {"authentication": {"pub_key": PUBLIC_KEY[:80]}},
        {"authentication": {"endpoint": "ftp://host/"}},
        {"authentication": {"endpoint": "host/path"}},
        {"authentication": {"endpoint": "http://["}},
        {"authentication": {"endpoint": "https://"}},
        {"authentication": {"type": "saml"}},
        {"authentication": {"password": "x" * 40}},
        {"num_cycles": None},
        {"min_workers": None},
        {"max_weight": None},
        {"aggregation": "mean"},
        {"aggregation": {"name": "median"}},
        {"aggregation": {"name": None}},
        {"aggregation": {"factor": 2.0}},
        {"aggregation": {"weights": "examples"}},
        {"aggregation": {"weights": "votes"}},
        {"aggregation": {"radius": 0.0}},
        {"aggregation": {"radius": None}},
        {"aggregation": {"radius": math.nan}},
        {"aggregation": {"bound": 0.9}},
        {"aggregation": {"bound": math.inf}},
        {"aggregation": {"weight_cap": 0.5}},
        {"outlier_factor": 2.0, "aggregation": {"name": "mean"}},
        {"pool_window_s": None},
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    error = refused(**fields)
    name = next(iter(fields))
    assert name.lower() in error.detail.lower()


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("min_workers", "max_workers"),
        ("min_diffs", "max_diffs"),
        ("min_diffs", "max_workers"),
        ("max_diffs", "max_workers"),
    ],
)
def test_bounds_at_odds_are_refused(low: str, high: str) -> None:
    assert read(**{low: 3, high: 3})
    error = refused(**{low: 4, high: 3})
    assert (error.fields, low in error.detail, high in error.detail) == ({"field": low}, True, True)


def test_what_a_device_must_prove_is_read() -> None:
    given_ = {"secret": "x" * 32, "pub_key": PUBLIC_KEY, "endpoint": "https://example.org/check", "type": "jwt"}
    assert read(authentication=given_).authentication == Authentication(**given_)


def test_what_is_shown_is_complete_and_without_the_secret() -> None:
    config = read(authentication={"secret": "very secret " * 4}, max_diffs=3)
    shown = config.public()
    assert shown["authentication"]["secret"] == "(set)"
    assert "very secret" not in json.dumps(shown)
    unused = {"outlier_factor", "pool_window_s", "max_weight", "late_first_s"}
    assert set(shown) == set(ServerConfig.__struct_fields__) - unused
    assert (shown["max_diffs"], shown["server_optimizer"]["name"]) == (3, "sgd")
    # Without a secret, what is shown can be given again.
    for given_ in ({}, {"outlier_factor": None}, {"aggregation": {"name": "mean", "weights": "equal"}}):
        config = read(max_diffs=3, **given_)
        again = read_server_config(config.public())
        assert (again.rule, again.public()) == (config.rule, config.public())


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({}, "needs_speed_test", False),
        ({"minimum_upload_speed": 0.0}, "needs_speed_test", True),
        ({"minimum_download_speed": 1.0}, "needs_speed_test", True),
        ({}, "needed_diffs", 1),
        ({"min_diffs": 5}, "needed_diffs", 5),
        ({}, "candidates_needed", 1),
        ({"min_workers": 5}, "candidates_needed", 5),
    ],
)
def test_what_follows_from_it(fields: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(read(**fields), name) == value


# -- fields without an effect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"server_optimizer": {"name": "sgd", "momentum": 0.9}}, "server_optimizer.momentum"),
        ({"server_optimizer": {"momentum": 0.5}}, "server_optimizer.momentum"),
        ({"server_optimizer": {"name": "momentum", "tau": 0.1}}, "server_optimizer.tau"),
        ({"server_optimizer": {"name": "adagrad", "beta2": 0.9}}, "server_optimizer.beta2"),
        ({"aggregation": {"bound": 2.0}}, "aggregation.bound"),
        ({"aggregation": {"weight_cap": 3.0}}, "aggregation.weight_cap"),
        ({"aggregation": {"name": "mean", "radius": 1.0}}, "aggregation.radius"),
        ({"aggregation": {"name": "mean", "weights": "equal", "weight_cap": 2.0}}, "aggregation.weight_cap"),
        ({"pool_window_s": 1.0}, "pool_window_s"),
        ({"max_weight": 10_000}, "max_weight"),
        ({"clients_per_subject": 1}, "clients_per_subject"),
        ({**NAMED, "clients_per_subject": 2}, "clients_per_subject"),
        (
            {"authentication": {"endpoint": "https://id.example/"}, "clients_per_subject": 2},
            "clients_per_subject",
        ),
    ],
)
def test_a_field_without_an_effect_is_refused_also_with_its_default(fields: dict[str, Any], field: str) -> None:
    error = refused(**fields)
    assert (error.fields, "has no effect" in error.detail) == ({"field": field}, True)


# -- several faults, near names ----------------------------------------------------------------------------------------


def test_all_faults_are_told_at_once() -> None:
    error = refused(num_cycles=-1, min_worker=3, server_optimizer={"name": "lamb", "lr": 1}, authentication={"aud": 5})
    faults = {fault["field"]: fault["detail"] for fault in error.fields["faults"]}
    assert list(faults) == [
        "min_worker",
        "num_cycles",
        "authentication.aud",
        "server_optimizer.lr",
        "server_optimizer.name",
    ]
    assert all(f"\n- {text}" in error.detail for text in faults.values())
    assert "did you mean 'min_workers'?" in faults["min_worker"]
    assert "did you mean 'learning_rate'?" in faults["server_optimizer.lr"]
    assert "sgd, momentum, adagrad, adam or yogi" in faults["server_optimizer.name"]
    error = refused(min_workers=4, max_workers=2, min_diffs=9, max_diffs=8)
    assert [fault["field"] for fault in error.fields["faults"]] == [
        "min_workers",
        "min_diffs",
        "min_diffs",
        "max_diffs",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_cycle", "num_cycles"),
        ("rounds", "num_cycles"),
        ("cycleLength", "cycle_length"),
        ("Cycle-Length", "cycle_length"),
        ("min_diff", "min_diffs"),
        ("max_clients", "max_workers"),
        ("optimizer", "server_optimizer"),
        ("poolselection", "pool_selection"),
    ],
)
def test_a_near_name_is_suggested(name: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refused(**{name: 1}).detail


def test_a_name_that_is_near_no_other_gets_the_list() -> None:
    detail = refused(zzz=1).detail
    assert "did you mean" not in detail
    assert all(name in detail for name in ServerConfig.__struct_fields__)


# -- in Python ---------------------------------------------------------------------------------------------------------


def test_the_class_checks_itself_and_writes_what_differs_from_the_defaults() -> None:
    config = ServerConfig(cycle_length=60, max_diffs=3, aggregation=Aggregation(name="mean", bound=None))
    assert config.written() == {
        "cycle_length": 60.0,
        "max_diffs": 3,
        "aggregation": {"name": "mean", "bound": None},
    }
    assert read_server_config(config.written()) == config
    nested = ServerConfig(cycle_length=None, authentication={"secret": "s" * 32})  # type: ignore[arg-type]
    assert nested.authentication == Authentication(secret="s" * 32)
    with pytest.raises(InvalidConfig, match="ServerConfig has no field 'min_worker'; did you mean 'min_workers'"):
        ServerConfig(cycle_length=60, min_worker=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidConfig, match=r"Aggregation\.name is 'median'"):
        Aggregation("median")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="cycle_length is required"):
        ServerConfig()  # type: ignore[call-arg]


def test_a_configuration_can_be_copied() -> None:
    config = ServerConfig(cycle_length=60, server_optimizer={"name": "adam"})  # type: ignore[arg-type]
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301


def test_the_blocks_of_the_page_on_cycle_settings_run() -> None:
    text = (Path(__file__).parents[3] / "docs/how-to/cycle-settings.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*ServerConfig.__struct_fields__, "other"]), json_values))
def test_any_values_are_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        config = read_server_config(fields)
    except InvalidConfig:
        return
    if config.authentication is None:
        assert read_server_config(config.public()).public() == config.public()


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({}, Aggregation()),
        ({"aggregation": None}, Aggregation(name="centred_clipping", radius=1.0)),
        ({"outlier_factor": 4.0}, Aggregation(name="mean", bound=4.0, weight_cap=None)),
        ({"outlier_factor": None}, Aggregation(name="mean", bound=None, weight_cap=None)),
        ({"aggregation": {"name": "mean"}}, Aggregation(name="mean", bound=2.0, weight_cap=3.0)),
        (NAMED, Aggregation(name="mean", bound=4.0, weight_cap=None)),
        ({**NAMED, "aggregation": {"radius": 2.0}}, Aggregation(radius=2.0)),
    ],
)
def test_the_rule_follows_from_what_was_given(fields: dict[str, Any], rule: Aggregation) -> None:
    assert read(**fields).rule == rule


@pytest.mark.parametrize(
    ("rule", "equal"),
    [
        (Aggregation(), True),
        (Aggregation(name="mean"), False),
        (Aggregation(name="mean", weights="equal"), True),
        (Aggregation(name="mean", weights="examples"), False),
    ],
)
def test_who_has_equal_votes(rule: Aggregation, equal: bool) -> None:
    assert rule.has_equal_votes is equal


def test_strangers_may_know_of_a_process_that_any_device_may_join():
    secret = {"authentication": {"secret": "s" * 32}}
    for more, public in (
        ({}, True),
        ({"visibility": "listed"}, False),
        (secret, False),
        ({**secret, "visibility": "public"}, True),
    ):
        assert read_server_config({"cycle_length": 60, **more}).is_public is public
    with pytest.raises(InvalidConfig):
        read_server_config({"cycle_length": 60, "visibility": "private"})


def test_the_annotations_of_a_class_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Msgspec evaluates them again at each call, which takes longer than all else."""
    raw = {"num_cycles": 1, "cycle_length": 60, "server_optimizer": {"name": "sgd", "learning_rate": 0.5}}
    first = read_server_config(raw)
    monkeypatch.setattr("msgspec.structs.fields", None)
    assert read_server_config(raw) == first
    assert first.server_optimizer.written() == {"learning_rate": 0.5}
