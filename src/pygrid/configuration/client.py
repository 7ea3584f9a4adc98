"""How devices train in a cycle: `ClientConfig`, and the checks of its JSON object against the plans of a process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from pygrid.configs import Config, FieldFault, Spec, find_near, invalid_config, shown
from pygrid.configuration.schedules import SERVER_RATE
from pygrid.plans.manifest import Manifest

MAX_CLIENT_CONFIG_BYTES = 64 * 1024
MAX_EPOCHS = 1_000_000
MAX_UPDATES = 10**9
PUBLISHED = ("lr",)
"""Names that devices of 2020 read, so they are accepted whatever the plans are."""
SETTINGS = ("epochs", "max_epochs", "batch_size", "max_updates")
_SURE = 0.8
"""Similarity of names from which a key of the owner's own counts as a typing error."""


class ClientConfig(Config, frozen=True, kw_only=True):
    """How devices train in a cycle.

    In JSON, ``hyper`` and ``extra`` are not fields: each of their keys is a key of the object.
    """

    epochs: Annotated[int, Spec(2, 1, MAX_EPOCHS)] = 1
    """Passes over the data of the device in a cycle. In JSON, ``max_epochs`` is an older name."""
    batch_size: Annotated[int | None, Spec(16, 1, 1_000_000)] = None
    """Examples for one update, at most the plan's largest batch. Null: 32, or the plan's largest if that is less."""
    max_updates: Annotated[int | None, Spec(100, 1, MAX_UPDATES)] = None
    """Number of updates after which a device ends its training. Null: no limit."""
    lr: Annotated[float | None, Spec(0.1)] = None
    """The hyperparameter ``lr``, within the range of the plan. Null: the plan's default."""
    hyper: Annotated[Mapping[str, float], Spec({"momentum": 0.9})] = msgspec.field(default_factory=dict)
    """Further hyperparameters of the plan by name, each within its range."""
    extra: Annotated[Mapping[str, Any], Spec({"app": {"theme": "dark"}})] = msgspec.field(default_factory=dict)
    """Any other keys and JSON values for code of your own on the devices, which gets them unchanged."""

    def find_faults(self, given: object) -> Iterator[FieldFault]:
        taken = set(self.__struct_fields__) | set(SETTINGS) | {"name", "version"}
        for field in ("hyper", "extra"):
            for name in getattr(self, field):
                if name in taken or (field == "extra" and name in self.hyper):
                    yield FieldFault(f"{field}.{name}", "is the name of another setting; write it there")

    def written(self) -> dict[str, Any]:
        values = super().written()
        return {**values.pop("extra", {}), **values.pop("hyper", {}), **values}


def read_client_config(raw: Mapping[str, Any], plans: Mapping[str, Manifest] | None = None) -> tuple[str, str]:
    """Name and version of the process from its ``client_config``. Clients receive the other fields unchanged.

    Args:
        plans: the manifests of the training plans by name; None: their hyperparameters are not checked.
    Raises:
        InvalidConfig: name or version is missing, not text, empty or over 200 characters; the object is over 64 KiB; a
            setting is out of its range; a number belongs to no hyperparameter of a plan; a name is nearly that of a
            setting. The error names all faults.
    """
    faults = [*_find_name_faults(raw), *_find_setting_faults(raw)]
    if plans is not None:
        faults += _find_plan_faults(raw, plans)
    if not faults and len(msgspec.json.encode(raw)) > MAX_CLIENT_CONFIG_BYTES:
        faults.append(FieldFault("client_config", f"client_config is over {MAX_CLIENT_CONFIG_BYTES} bytes"))
    if faults:
        raise invalid_config(faults)
    return raw["name"], raw["version"]


def schedulable(plans: Mapping[str, Manifest]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each setting that can have a schedule.

    Args:
        plans: the manifests of the training plans; a hyperparameter must be in the range of each plan that has it.
    """
    ranges: dict[str, tuple[float, float]] = {SERVER_RATE: (1e-9, 1e6)}
    largest = min(manifest.max_batch_size for manifest in plans.values())
    ranges |= {"epochs": (1, MAX_EPOCHS), "batch_size": (1, largest), "max_updates": (1, MAX_UPDATES)}
    for manifest in plans.values():
        for name, hyper in manifest.hyper.items():
            low, high = ranges.get(name, (-math.inf, math.inf))
            ranges[name] = (max(low, hyper.min), min(high, hyper.max))
    return ranges


def _find_name_faults(raw: Mapping[str, Any]) -> Iterator[FieldFault]:
    for field in ("name", "version"):
        value = raw.get(field)
        if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
            yield FieldFault(field, f"client_config.{field} must be a printable text of 1 to 200 characters")


def _find_setting_faults(raw: Mapping[str, Any]) -> Iterator[FieldFault]:
    limits = {"epochs": MAX_EPOCHS, "max_epochs": MAX_EPOCHS, "batch_size": 1_000_000, "max_updates": MAX_UPDATES}
    for name in SETTINGS:
        value = raw.get(name)
        if value is not None and not (_is_number(value) and float(value).is_integer() and 1 <= value <= limits[name]):
            wanted = f"a whole number from 1 to {limits[name]}"
            yield FieldFault(name, f"client_config.{name} is {shown(value)}; it must be {wanted}")
    if None not in (raw.get("epochs"), raw.get("max_epochs")) and raw["epochs"] != raw["max_epochs"]:
        yield FieldFault(
            "max_epochs", "client_config.max_epochs is an older name of epochs, and they differ; use epochs"
        )


def _find_plan_faults(raw: Mapping[str, Any], plans: Mapping[str, Manifest]) -> Iterator[FieldFault]:
    """The faults of keys that are compared with the plans."""
    hypers = {name for manifest in plans.values() for name in manifest.hyper}
    for name, value in raw.items():
        if name in ("name", "version", *SETTINGS):
            continue
        if name in hypers:
            yield from _find_hyper_faults(name, value, plans)
            continue
        near = find_near(name, {*SETTINGS, *hypers} | ({*PUBLISHED} - {name}), _SURE)
        has = f"the plans have {', '.join(sorted(hypers)) or 'no hyperparameters'}"
        if near is not None and near != name:
            yield FieldFault(name, f"client_config has no setting {shown(name)}; did you mean {near!r}? {has}")
        elif name in ("hyper", "hyperparameters") and isinstance(value, Mapping):
            yield FieldFault(
                name, f"client_config.{name} is an object: write each hyperparameter as a key of client_config"
            )
        elif _is_number(value) and name not in PUBLISHED:
            yield FieldFault(
                name,
                f"client_config.{name} is a number, and no plan has a hyperparameter of that name; {has}. Put numbers "
                "for code of your own into an object, for example app",
            )
    if raw.get("batch_size") is not None and _is_number(raw["batch_size"]):
        for plan, manifest in plans.items():
            if raw["batch_size"] > manifest.max_batch_size:
                text = f"is {raw['batch_size']}; plan {plan!r} takes at most {manifest.max_batch_size}"
                yield FieldFault("batch_size", f"client_config.batch_size {text}")


def _find_hyper_faults(name: str, value: Any, plans: Mapping[str, Manifest]) -> Iterator[FieldFault]:
    if value is None:
        return
    for plan, manifest in plans.items():
        bounds = manifest.hyper.get(name)
        if bounds is not None and not (_is_number(value) and bounds.min <= value <= bounds.max):
            wanted = f"plan {plan!r} takes a number from {bounds.min:g} to {bounds.max:g}"
            yield FieldFault(name, f"client_config.{name} is {shown(value)}; {wanted}")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
