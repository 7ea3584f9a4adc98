"""Hyperparameters: the numbers of a plan that the caller of a run may choose."""

from __future__ import annotations

from collections.abc import Mapping

from pygrid.errors import InvalidInput
from pygrid.plans.manifest import Manifest


def resolve_hyper(manifest: Manifest, given: Mapping[str, float] | None) -> dict[str, float]:
    """The value of each hyperparameter: the given one, else the default.

    Raises:
        InvalidInput: the plan has no such name, or the value is outside its range.
    """
    values = {name: hyper.default for name, hyper in manifest.hyper.items()}
    for name, value in (given or {}).items():
        if name not in manifest.hyper:
            known = ", ".join(manifest.hyper) or "none"
            raise InvalidInput(f"the plan has no hyperparameter {name!r}; it has {known}", hyper=name)
        bounds = manifest.hyper[name]
        if not bounds.min <= value <= bounds.max:
            raise InvalidInput(
                f"hyperparameter {name!r} is {value}; the plan allows {bounds.min} to {bounds.max}", hyper=name
            )
        values[name] = float(value)
    return values
