"""What a model owner may configure.

Should happen: every value in its range is kept as given, defaults are filled in, secrets are not shown.
Should not happen: a value out of range, of another type, not finite, unknown or at odds with another one is taken.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.aggregation.rules import Aggregation
from pygrid.core.process_config import (
    MAX_CLIENT_CONFIG_BYTES,
    Authentication,
    ProcessConfig,
    read_client_config,
    read_server_config,
)
from pygrid.errors import InvalidConfig

PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
"""


def read(**fields: Any) -> ProcessConfig:
    return read_server_config({"cycle_length": 60, **fields})


def refused(**fields: Any) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as error:
        read(**fields)
    return error.value


NAMED = {"named_clients": True, "authentication": {"secret": "x" * 32}}
COUNTS = {"num_cycles": 0, "min_workers": 0, "do_not_reuse_workers_until_cycle": 0, "clients_per_subject": 1}
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
    assert config == ProcessConfig(cycle_length=None)
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
        assert getattr(read(**{name: good}), name) == good
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
        assert getattr(read(**{name: good}), name) == good
    for bad in (low - 1e-6, -1, high * 1.001, 1e300, math.nan, math.inf, -math.inf, 10**400):
        error = refused(**{name: bad})
        assert name in error.detail
    for bad in ("1", True, [], {}):
        assert name in refused(**{name: bad}).detail


@pytest.mark.parametrize("name", OPTIMIZER)
def test_the_optimizers_numbers_have_a_range(name: str) -> None:
    low, high, default = OPTIMIZER[name]
    assert getattr(read(server_optimizer={"name": "adam"}).server_optimizer, name) == default
    for good in (low, high):
        assert getattr(read(server_optimizer={name: good}).server_optimizer, name) == good
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
    assert set(shown) == set(ProcessConfig.__struct_fields__) - {"outlier_factor"}
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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*ProcessConfig.__struct_fields__, "other"]), json_values))
def test_any_values_are_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        config = read_server_config(fields)
    except InvalidConfig:
        return
    assert read_server_config(config.public() | {"authentication": None}) is not None


# -- client_config -----------------------------------------------------------------------------------------------------


def test_name_and_version_are_read_and_the_rest_is_free() -> None:
    assert read_client_config({"name": "digits", "version": "1.0", "lr": 0.1, "nested": {"a": [1, None]}}) == (
        "digits",
        "1.0",
    )


@pytest.mark.parametrize("field", ["name", "version"])
@pytest.mark.parametrize("bad", [None, "", " ", 1, [], "x" * 201, "a\nb", "a\0b", "\ud800", "\u202e"])
def test_a_name_or_version_that_is_none_is_refused(field: str, bad: Any) -> None:
    raw = {"name": "digits", "version": "1.0", field: bad}
    with pytest.raises(InvalidConfig, match=field):
        read_client_config(raw)
    del raw[field]
    with pytest.raises(InvalidConfig, match=field):
        read_client_config(raw)


def test_too_much_client_config_is_refused() -> None:
    raw = {"name": "digits", "version": "1.0", "notes": ""}
    room = MAX_CLIENT_CONFIG_BYTES - len(json.dumps(raw, separators=(",", ":")))
    read_client_config({**raw, "notes": "x" * room})
    with pytest.raises(InvalidConfig, match="bytes"):
        read_client_config({**raw, "notes": "x" * (room + 1)})


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({}, Aggregation()),
        ({"aggregation": None}, Aggregation("centred_clipping", radius=1.0)),
        ({"outlier_factor": 4.0}, Aggregation("mean", bound=4.0, weight_cap=None)),
        ({"outlier_factor": None}, Aggregation("mean", bound=None, weight_cap=None)),
        ({"aggregation": {"name": "mean"}}, Aggregation("mean", bound=2.0, weight_cap=3.0)),
        (NAMED, Aggregation("mean", bound=4.0, weight_cap=None)),
        ({**NAMED, "aggregation": {"radius": 2.0}}, Aggregation(radius=2.0)),
    ],
)
def test_the_rule_follows_from_what_was_given(fields: dict[str, Any], rule: Aggregation) -> None:
    assert read(**fields).rule == rule


@pytest.mark.parametrize(
    ("rule", "equal"),
    [
        (Aggregation(), True),
        (Aggregation("mean"), False),
        (Aggregation("mean", weights="equal"), True),
        (Aggregation("mean", weights="examples"), False),
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
