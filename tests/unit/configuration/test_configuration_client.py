"""What devices are told, compared with the plans.

Should happen: the published keys, the settings, hyperparameters in their range and values for other code are taken.
Should not happen: a setting out of range, a number that no plan reads, a typing error, too much text.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pygrid.configuration import ClientConfig, read_client_config
from pygrid.configuration.client import MAX_CLIENT_CONFIG_BYTES
from pygrid.errors import InvalidConfig
from pygrid.plans.manifest import Hyper, Manifest

NAME = {"name": "digits", "version": "1.0"}


def plan(max_batch_size: int = 64, **hyper: tuple[float, float]) -> Manifest:
    return Manifest(
        1,
        "training",
        "plan",
        "",
        "",
        20,
        {},
        hyper={name: Hyper(low, low, high) for name, (low, high) in hyper.items()},
        max_batch_size=max_batch_size,
    )


SGD = {"training_plan": plan(lr=(0.0, 1.0), momentum=(0.0, 0.9))}


def refused(plans: dict[str, Manifest] | None = None, **fields: Any) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as error:
        read_client_config({**NAME, **fields}, SGD if plans is None else plans)
    return error.value


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 64, "lr": 0.005, "max_updates": 100, "max_epochs": 2},
        {"lr": 1, "momentum": 0.9, "epochs": 3},
        {"lr": None, "epochs": None},
        {"note": "ü", "app": {"rate": 3}, "list": [1, 2], "flag": True, "a key of mine": None},
        {"epochs": 2.0, "max_epochs": 2},
    ],
)
def test_what_devices_can_read_is_taken(fields: dict[str, Any]) -> None:
    assert read_client_config({**NAME, **fields}, SGD) == ("digits", "1.0")


def test_the_published_keys_are_taken_without_a_plan_that_has_them() -> None:
    published = {"batch_size": 64, "lr": 0.005, "max_updates": 100, "max_epochs": 1}
    assert read_client_config({**NAME, **published}, {"p": plan()}) == ("digits", "1.0")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"learning_rate": 0.1}, "did you mean 'lr'?"),
        ({"Lr": 0.1}, "did you mean 'lr'?"),
        ({"momentun": 0.1}, "did you mean 'momentum'?"),
        ({"batchsize": 2}, "did you mean 'batch_size'?"),
        ({"num_epochs": 2}, "did you mean 'epochs'?"),
        ({"local_epochs": "2"}, "did you mean 'epochs'?"),
        ({"weight_decay": 0.1}, "the plans have lr, momentum"),
        ({"hyper": {"lr": 0.1}}, "write each hyperparameter as a key"),
        ({"lr": 1.1}, "'training_plan' takes a number from 0 to 1"),
        ({"lr": "0.1"}, "'training_plan' takes a number from 0 to 1"),
        ({"lr": True}, "'training_plan' takes a number from 0 to 1"),
        ({"lr": 10**400}, "'training_plan' takes a number from 0 to 1"),
        ({"epochs": 0}, "a whole number from 1"),
        ({"epochs": 1.5}, "a whole number from 1"),
        ({"batch_size": "many"}, "a whole number from 1"),
        ({"batch_size": 65}, "takes at most 64"),
        ({"max_updates": True}, "a whole number from 1"),
        ({"epochs": 2, "max_epochs": 3}, "an older name of epochs"),
    ],
)
def test_what_no_device_can_read_is_refused(fields: dict[str, Any], text: str) -> None:
    error = refused(**fields)
    assert text in error.detail
    assert error.fields["field"] in fields


def test_a_plan_that_calls_it_otherwise_is_named() -> None:
    assert "did you mean 'learning_rate'?" in refused({"p": plan(learning_rate=(0.0, 1.0))}, lr=0.1).detail


def test_each_plan_that_has_a_hyperparameter_checks_it() -> None:
    plans = {"small": plan(lr=(0.0, 0.1)), "large": plan(lr=(0.5, 1.0)), "other": plan(rate=(0.0, 1.0))}
    error = refused(plans, lr=0.3, rate=0.1, epochs=0)
    assert [fault["field"] for fault in error.fields["faults"]] == ["epochs", "lr", "lr"]


@pytest.mark.parametrize("field", ["name", "version"])
@pytest.mark.parametrize("bad", [None, "", " ", 1, [], "x" * 201, "a\nb", "a\0b", "\ud800", "\u202e"])
def test_a_name_or_version_that_is_none_is_refused(field: str, bad: Any) -> None:
    raw = {**NAME, field: bad}
    with pytest.raises(InvalidConfig, match=field):
        read_client_config(raw)
    del raw[field]
    with pytest.raises(InvalidConfig, match=field):
        read_client_config(raw)


def test_too_much_client_config_is_refused() -> None:
    raw = {**NAME, "notes": ""}
    room = MAX_CLIENT_CONFIG_BYTES - len(json.dumps(raw, separators=(",", ":")))
    read_client_config({**raw, "notes": "x" * room})
    with pytest.raises(InvalidConfig, match="bytes"):
        read_client_config({**raw, "notes": "x" * (room + 1)})


def test_the_class_writes_hyperparameters_and_own_keys_as_keys() -> None:
    config = ClientConfig(epochs=2, lr=0.1, hyper={"momentum": 0.5}, extra={"app": {"theme": "dark"}})
    assert config.written() == {"epochs": 2, "lr": 0.1, "momentum": 0.5, "app": {"theme": "dark"}}
    assert ClientConfig().written() == {}
    with pytest.raises(InvalidConfig, match="did you mean 'batch_size'"):
        ClientConfig(batchsize=2)  # type: ignore[call-arg]
    with pytest.raises(InvalidConfig, match="the name of another setting"):
        ClientConfig(hyper={"lr": 0.1})
    with pytest.raises(InvalidConfig, match=r"hyper\.momentum is 'fast'; it must be a number"):
        ClientConfig(hyper={"momentum": "fast"})  # type: ignore[dict-item]
