"""Programs that overwrite arrays in place are traced once where torch's copies can be left out.

Should happen: the graph has no operator that works in place, and computes what torch computes.
Should not happen: an array that was read before it was overwritten, or that has a second name, changes its value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pygrid.plans.authoring import tracing
from pygrid.plans.authoring.build import emit
from pygrid.plans.authoring.reference import eager
from pygrid.plans.authoring.tracing import Arrays, Program
from pygrid.plans.manifest import Port
from pygrid.plans.sessions import OnnxSession

Function = Callable[[torch.Tensor], torch.Tensor]


def _filled_twice(x: torch.Tensor) -> torch.Tensor:
    made = x * 2
    before = made + 1
    made.masked_fill_(x > 0, 5.0).masked_fill_(x < -1, 7.0)
    return before * made + made


def _source_is_used(x: torch.Tensor) -> torch.Tensor:
    made, source = x * 2, x + 1
    made.copy_(source)
    made.add_(1)
    return made * source


def _has_a_view(x: torch.Tensor) -> torch.Tensor:
    made = x * 2
    view = made.t()
    made.masked_fill_(x > 0, 5.0)
    return view.t() + made


def _view_is_filled(x: torch.Tensor) -> torch.Tensor:
    made = x * 2
    made[:, 1:].masked_fill_(x[:, 1:] > 0, 5.0)
    return made


def _other_dtype(x: torch.Tensor) -> torch.Tensor:
    made = torch.zeros_like(x)
    made.copy_((x * 3).to(torch.int64))
    return made + x


def _row_for_all(x: torch.Tensor) -> torch.Tensor:
    made = x * 2
    made.copy_(torch.ones(4))
    return made + x


@pytest.mark.parametrize(
    ("function", "passes"),
    [
        (_filled_twice, 1),
        (_source_is_used, 2),
        (_has_a_view, 2),
        (_view_is_filled, 2),
        (_other_dtype, 2),
        (_row_for_all, 2),
    ],
)
def test_an_array_that_is_overwritten(function: Function, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    make = tracing.make_fx
    monkeypatch.setattr(tracing, "make_fx", lambda *given, **options: traced.append(given) or make(*given, **options))

    def run(arrays: Arrays) -> Arrays:
        return {"new/result": function(arrays["data/x"])}

    program = Program("train", (Port("data/x", "float32", ("batch", 4)),), run)
    graph = emit((program, (program,)), symbol_name="batch")["train"]
    assert len(traced) == passes
    feed = {"data/x": np.random.default_rng(0).normal(0, 2, (3, 4)).astype(np.float32)}
    (found,) = OnnxSession(graph.data, name="train").run(["new/result"], feed)
    np.testing.assert_allclose(found, eager(program, feed)["new/result"].numpy(), rtol=1e-6)
