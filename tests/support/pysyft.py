"""Plans as PySyft 0.2.9 traces them, written by hand: methods have targets, functions begin with ``torch.``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pygrid.syft import Action, PlanMessage, Ref, write_plan, write_state
from pygrid.syft.plans import Argument

NUM_CLASSES, NUM_FEATURES, BATCH = 3, 4, 8


class Trace:
    """Collects actions, with ids as PySyft makes them: large integers."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._next = 70_000_000_000

    def new(self) -> int:
        self._next += 17
        return self._next

    def inputs(self, count: int) -> list[Ref]:
        return [Ref(self.new()) for _ in range(count)]

    def method(self, target: Ref, name: str, *args: Argument, **kwargs: Argument) -> Ref:
        self.actions.append(Action(name, args, self.new(), target, kwargs))
        return Ref(self.actions[-1].result)

    def function(self, name: str, *args: Argument, **kwargs: Argument) -> Ref:
        self.actions.append(Action(f"torch.{name}", args, self.new(), None, kwargs))
        return Ref(self.actions[-1].result)

    def plan(
        self, name: str, inputs: list[Ref], outputs: list[Ref], shapes: Mapping[Any, tuple[int, ...]] | None = None
    ) -> PlanMessage:
        ids = tuple(one.id for one in inputs), tuple(one.id for one in outputs)
        return PlanMessage(name, *ids, tuple(self.actions), shapes=shapes or {})


def training_plan(*, has_shapes: bool = True) -> PlanMessage:
    """A step of logistic regression: ``X, y, batch_size, lr, weight, bias -> loss, accuracy, weight, bias``."""
    t = Trace()
    x, y, size, rate, weight, bias = inputs = t.inputs(6)
    logits = t.method(t.method(x, "matmul", t.method(weight, "t")), "__add__", bias)
    norm = t.method(logits, "__sub__", t.method(logits, "max"))
    log_sum = t.method(t.method(t.method(norm, "exp"), "sum", dim=1, keepdim=True), "log")
    log_probs = t.method(norm, "__sub__", log_sum)
    picked = t.method(t.method(y, "__mul__", log_probs), "sum")
    loss = t.method(t.method(picked, "__neg__"), "__truediv__", size)
    grad = t.method(t.method(t.method(log_probs, "exp"), "__sub__", y), "__truediv__", size)
    by_weight = t.method(t.method(grad, "t"), "matmul", x)
    by_bias = t.method(grad, "sum", 0)
    new_weight = t.method(weight, "__sub__", t.method(rate, "__mul__", by_weight))
    new_bias = t.method(bias, "__sub__", t.method(rate, "__mul__", by_bias))
    right = t.method(t.function("argmax", logits, dim=1), "eq", t.function("argmax", y, dim=1))
    accuracy = t.method(t.method(t.method(right, "sum"), "float"), "__truediv__", size)
    shapes = {x.id: (BATCH, NUM_FEATURES), y.id: (BATCH, NUM_CLASSES)} if has_shapes else {}
    return t.plan("training_plan", inputs, [loss, accuracy, new_weight, new_bias], shapes)


def iterative_average(num_arrays: int = 2) -> PlanMessage:
    """``avg, item, num -> (avg * num + item) / (num + 1)``, as in the examples of PyGrid."""
    t = Trace()
    inputs = t.inputs(2 * num_arrays + 1)
    num = inputs[-1]
    outputs = []
    for avg, item in zip(inputs[:num_arrays], inputs[num_arrays:-1], strict=True):
        total = t.method(t.method(avg, "__mul__", num), "__add__", item)
        outputs.append(t.method(total, "__truediv__", t.method(num, "__add__", 1)))
    return t.plan("avg_plan", inputs, outputs)


def average_of(num_diffs: int, num_arrays: int = 2) -> PlanMessage:
    """The mean of that many diffs at once, doubled, so that it differs from the usual mean."""
    t = Trace()
    inputs = t.inputs(num_diffs * num_arrays)
    outputs = []
    for index in range(num_arrays):
        stacked = t.function("stack", tuple(inputs[index::num_arrays]))
        outputs.append(t.method(t.method(stacked, "mean", 0), "__mul__", 2))
    return t.plan("avg_plan", inputs, outputs)


def arrays(value: float = 1.0) -> list[np.ndarray[Any, Any]]:
    """The weight and the bias of `training_plan`, all of one value."""
    return [np.full((NUM_CLASSES, NUM_FEATURES), value, np.float32), np.full(NUM_CLASSES, value, np.float32)]


def message(
    plans: Mapping[str, PlanMessage | bytes] | None = None,
    *,
    averaging: PlanMessage | None = None,
    name: str = "of-2020",
    **server_config: Any,
) -> dict[str, Any]:
    """The fields of ``model-centric/host-training`` as PySyft 0.2.9 sends them."""
    plans = {"training_plan": training_plan()} if plans is None else plans
    return {
        "model": write_state(arrays()).hex(),
        "plans": {
            key: (write_plan(plan) if isinstance(plan, PlanMessage) else plan).hex() for key, plan in plans.items()
        },
        "protocols": {},
        "averaging_plan": "" if averaging is None else write_plan(averaging).hex(),
        "client_config": {"name": name, "version": "1.0", "batch_size": BATCH, "lr": 0.1, "optimizer": "SGD"},
        "server_config": {"cycle_length": 60, "num_cycles": 3, "min_diffs": 2, "max_diffs": 2, **server_config},
    }
