"""Runs a hosted averaging plan: the rule of the process owner, in place of the Domain's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid import codes
from pygrid.errors import InvalidInput, InvalidPlan, NonFinite
from pygrid.plans.archive import Plan
from pygrid.plans.manifest import NUM_DIFFS, Manifest
from pygrid.plans.runner import check_params
from pygrid.plans.sessions import OnnxSession
from pygrid.tensors import Params

Array = npt.NDArray[Any]
_NUM = "num"


class AveragingRunner:
    """Runs a plan of kind ``averaging`` that has passed the gate.

    Iterative: the average starts as the first diff. For each further diff, the graph takes ``avg/NAME``, ``item/NAME``
    and ``num``, the number of diffs that are already in the average (float32, shape [1]); it returns ``new/avg/NAME``.
    Memory holds three models.
    Not iterative: the graph takes ``diffs/NAME`` with one more leading dimension and returns ``avg/NAME``. Memory holds
    every diff twice.
    """

    def __init__(self, plan: Plan, *, num_threads: int = 1) -> None:
        if plan.manifest.kind != "averaging":
            raise InvalidPlan(
                f"plan {plan.manifest.name!r} is of kind {plan.manifest.kind!r}, not averaging", code=codes.PLAN_KIND
            )
        self.plan = plan
        self._session = OnnxSession(plan.graph("average"), name="average", num_threads=num_threads)

    @property
    def model_spec(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays of a diff: bare name -> (dtype, shape)."""
        return averaging_spec(self.plan.manifest)

    def average(self, diffs: Iterable[Mapping[str, Array]]) -> Params:
        """The average of at least one diff.

        Args:
            diffs: each with the plan's names and shapes, float32; an iterative plan takes them one by one.
        Raises:
            ShapeMismatch: a diff has other arrays.
            InvalidInput: there are no diffs.
            NonFinite: the plan returned NaN or infinity.
            InvalidPlan: the plan's graph failed in a run.
        """
        result = self._iterate(diffs) if self.plan.manifest.iterative else self._at_once(diffs)
        for name, array in result.items():
            if not np.isfinite(array).all():
                raise NonFinite(f"the averaging plan returned NaN or infinity in array {name!r}", array=name)
        return result

    def _iterate(self, diffs: Iterable[Mapping[str, Array]]) -> Params:
        spec = self.model_spec
        outputs = [f"new/avg/{name}" for name in spec]
        takes_num = any(port.name == _NUM for port in self.plan.manifest.graphs["average"].inputs)
        average: Params = {}
        for count, diff in enumerate(diffs):
            check_params(spec, diff)
            if count == 0:
                average = {name: np.array(diff[name]) for name in spec}
                continue
            feed: dict[str, Array] = {f"avg/{name}": average[name] for name in spec}
            feed.update({f"item/{name}": np.require(diff[name], np.float32, ("C", "A")) for name in spec})
            if takes_num:
                feed[_NUM] = np.array([count], np.float32)
            average = dict(zip(spec, self._session.run(outputs, feed), strict=True))
        if not average:
            raise InvalidInput("there are no diffs to average")
        return average

    def _at_once(self, diffs: Iterable[Mapping[str, Array]]) -> Params:
        spec = self.model_spec
        every = list(diffs)
        if not every:
            raise InvalidInput("there are no diffs to average")
        for diff in every:
            check_params(spec, diff)
        feed = {f"diffs/{name}": np.stack([diff[name] for diff in every]) for name in spec}
        return dict(zip(spec, self._session.run([f"avg/{name}" for name in spec], feed), strict=True))


def averaging_spec(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Bare name -> (dtype, shape) of the arrays that an averaging plan takes and returns, sorted by name."""
    prefix = "item/" if manifest.iterative else "diffs/"
    spec = {
        port.name.removeprefix(prefix): (port.dtype, tuple(int(size) for size in port.shape if size != NUM_DIFFS))
        for port in manifest.graphs["average"].inputs
        if port.name.startswith(prefix)
    }
    return dict(sorted(spec.items()))
