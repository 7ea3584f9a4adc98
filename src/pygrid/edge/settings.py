"""The training settings in the ``client_config`` of a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pygrid.errors import InvalidConfig
from pygrid.plans.manifest import Manifest

DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True)
class TrainingSettings:
    """Arguments of `pygrid.plans.Runner.train`."""

    epochs: int = 1
    batch_size: int = DEFAULT_BATCH_SIZE
    max_updates: int | None = None
    hyper: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, client_config: Mapping[str, Any], manifest: Manifest) -> TrainingSettings:
        """The settings in a client configuration, for this plan.

        It reads ``epochs`` (or ``max_epochs``; default 1), ``batch_size`` (default 32, or the plan's largest if that is
        less), ``max_updates`` (default: no limit) and each hyperparameter of the plan by its name, for example ``lr``.
        It ignores other keys. The runner checks the ranges of hyperparameters.

        Raises:
            InvalidConfig: a value is of the wrong kind; the message names it.
        """
        epochs = _whole(client_config, "epochs")
        if epochs is None:
            epochs = _whole(client_config, "max_epochs")
        batch_size = _whole(client_config, "batch_size")
        hyper = {name: _number(client_config, name) for name in manifest.hyper if client_config.get(name) is not None}
        return cls(
            epochs=1 if epochs is None else epochs,
            batch_size=min(DEFAULT_BATCH_SIZE, manifest.max_batch_size) if batch_size is None else batch_size,
            max_updates=_whole(client_config, "max_updates"),
            hyper=hyper,
        )


def _whole(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer() or value < 1:
        raise InvalidConfig(_wrong(name, value, "a whole number of at least 1"), field=name)
    return int(value)


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidConfig(_wrong(name, value, "a number"), field=name)
    return float(value)


def _wrong(name: str, value: object, wanted: str) -> str:
    return (
        f"the process's client_config has {name} = {value!r}; it must be {wanted}. "
        "The owner of the model has to host it again"
    )
