"""The runner against an independent calculation in numpy, and what it refuses before anything runs."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from pygrid.errors import InvalidInput, InvalidPlan, NonFinite, ShapeMismatch, Unavailable
from pygrid.plans import DataPort, Hyper, NoisePort, Plan, Runner
from support.plans.handmade import GraphBuilder, f32, logistic_data, logistic_params, logistic_plan
from support.plans.variants import make_plan

PLAN = logistic_plan()
PARAMS = logistic_params()
DATA = logistic_data(50)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(PLAN)


def loss_and_gradients(weight: Any, bias: Any, x: Any, y: Any) -> tuple[float, dict[str, Any]]:
    """Cross entropy of softmax regression in float64, from the textbook formula."""
    logits = x.astype(np.float64) @ weight.T + bias
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
    delta = probabilities
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    return float(loss), {"weight": delta.T @ x, "bias": delta.sum(0)}


def reference(batches: Any, lr: float, momentum: float = 0.9) -> dict[str, Any]:
    params = {name: array.astype(np.float64) for name, array in PARAMS.items()}
    velocity = {name: np.zeros_like(array) for name, array in params.items()}
    for x, y in batches:
        _, gradients = loss_and_gradients(params["weight"], params["bias"], x, y)
        for name in params:
            velocity[name] = momentum * velocity[name] + gradients[name]
            params[name] = params[name] - lr * velocity[name]
    return params


def slices(size: int, epochs: int = 1) -> list[Any]:
    return [(DATA["x"][i : i + size], DATA["y"][i : i + size]) for _ in range(epochs) for i in range(0, 50, size)]


def assert_close(params: Any, expected: Any) -> None:
    # float32 against float64 over some tens of steps of well-scaled numbers
    assert set(params) == set(expected)
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], atol=2e-6)
        assert params[name].dtype == np.float32


def test_training_equals_the_textbook_with_a_short_last_batch(runner):
    before = {name: array.copy() for name, array in PARAMS.items()}
    result = runner.train(PARAMS, DATA, epochs=3, batch_size=16, hyper={"lr": 0.5}, shuffle=False)
    assert_close(result.params, reference(slices(16, 3), 0.5))
    assert (result.num_examples, result.num_updates, result.cancelled) == (50, 12, False)
    for name in before:
        np.testing.assert_array_equal(PARAMS[name], before[name])


def test_shuffling_is_a_seeded_order_of_the_same_examples(runner):
    orders = [np.random.Generator(np.random.PCG64([7, epoch])).permutation(50) for epoch in (0, 1)]
    batches = [(DATA["x"][rows], DATA["y"][rows]) for order in orders for rows in np.split(order, [20, 40])]
    result = runner.train(PARAMS, DATA, epochs=2, batch_size=20, seed=7)
    assert_close(result.params, reference(batches, 0.1))
    again = runner.train(PARAMS, DATA, epochs=2, batch_size=20, seed=7)
    other = runner.train(PARAMS, DATA, epochs=2, batch_size=20, seed=8)
    np.testing.assert_array_equal(result.params["weight"], again.params["weight"])
    assert not np.array_equal(result.params["weight"], other.params["weight"])


def test_batches_of_a_loader_train_like_arrays(runner):
    class Loader:
        def __iter__(self):
            return ({"x": x, "y": y} for x, y in slices(16))

    result = runner.train(PARAMS, Loader(), epochs=2)
    assert_close(result.params, reference(slices(16, 2), 0.1))
    assert (result.num_examples, result.num_updates) == (50, 8)


def test_an_iterator_serves_one_epoch_only(runner):
    assert runner.train(PARAMS, iter([dict(DATA)])).num_updates == 1
    with pytest.raises(InvalidInput, match="can be read once"):
        runner.train(PARAMS, iter([dict(DATA)]), epochs=2)


def test_max_updates_ends_in_the_middle_of_an_epoch(runner):
    result = runner.train(PARAMS, DATA, epochs=3, batch_size=16, max_updates=5, shuffle=False)
    assert_close(result.params, reference(slices(16, 3)[:5], 0.1))
    assert result.num_updates == 5
    assert result.num_examples == 50


@pytest.mark.parametrize("options", [{"max_updates": 0}, {"epochs": 0}])
def test_no_updates_give_the_model_back(runner, options):
    result = runner.train(PARAMS, DATA, **options)
    assert (result.num_updates, result.num_examples, result.metrics) == (0, 0, {})
    for name, array in PARAMS.items():
        np.testing.assert_array_equal(result.params[name], array)
        assert not np.shares_memory(result.params[name], array)


def test_metrics_are_means_weighted_by_batch_size(runner):
    metrics = runner.evaluate(PARAMS, DATA, batch_size=16)
    loss, _ = loss_and_gradients(PARAMS["weight"], PARAMS["bias"], DATA["x"], DATA["y"])
    accuracy = ((DATA["x"] @ PARAMS["weight"].T + PARAMS["bias"]).argmax(1) == DATA["y"]).mean()
    assert metrics == pytest.approx({"loss": loss, "accuracy": accuracy}, abs=1e-6)
    assert runner.evaluate(PARAMS, DATA) == pytest.approx(metrics, abs=1e-6)


def test_metrics_that_are_sums_add_up():
    runner = Runner(logistic_plan(metrics={"loss": "mean", "accuracy": "sum"}))
    per_batch = [runner.evaluate(PARAMS, {"x": x, "y": y})["accuracy"] for x, y in slices(16)]
    assert runner.evaluate(PARAMS, DATA, batch_size=16)["accuracy"] == pytest.approx(sum(per_batch))


def test_gradients_equal_the_textbook(runner):
    result = runner.gradients(PARAMS, DATA)
    loss, expected = loss_and_gradients(PARAMS["weight"], PARAMS["bias"], DATA["x"], DATA["y"])
    assert_close(result.grads, expected)
    assert result.metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert result.num_examples == 50


def test_progress_hears_of_every_update(runner):
    heard = []
    runner.train(PARAMS, DATA, epochs=2, batch_size=20, progress=lambda *args: heard.append(args))
    assert [(epoch, update, total) for epoch, update, total, _ in heard] == [
        (0, 1, 6),
        (0, 2, 6),
        (0, 3, 6),
        (1, 4, 6),
        (1, 5, 6),
        (1, 6, 6),
    ]
    assert all(set(metrics) == {"loss", "accuracy"} for *_, metrics in heard)
    unknown = []
    runner.train(PARAMS, [dict(DATA)], progress=lambda *args: unknown.append(args[2]))
    assert unknown == [None]


def test_cancelling_keeps_the_updates_that_were_made(runner):
    event = threading.Event()
    result = runner.train(
        PARAMS,
        DATA,
        batch_size=16,
        shuffle=False,
        cancel=event,
        progress=lambda _, n, *__: event.set() if n == 2 else None,
    )
    assert result.cancelled
    assert result.num_updates == 2
    assert_close(result.params, reference(slices(16)[:2], 0.1))
    assert runner.train(PARAMS, DATA, cancel=lambda: True).num_updates == 0


def test_terminating_ends_the_run_and_the_runner():
    runner = Runner(PLAN)
    result = runner.train(
        PARAMS, DATA, batch_size=16, shuffle=False, progress=lambda _, n, *__: runner.terminate() if n == 1 else None
    )
    assert result.cancelled
    assert_close(result.params, reference(slices(16)[:1], 0.1))
    with pytest.raises(Unavailable) as error:
        runner.evaluate(PARAMS, DATA)
    assert error.value.code == "run_cancelled"


def test_columns_are_converted_where_nothing_is_lost(runner):
    converted = {"x": DATA["x"].astype(np.float64)[::-1][::-1], "y": DATA["y"].astype(np.uint8)}
    result = runner.train(PARAMS, converted, shuffle=False)
    expected = runner.train(PARAMS, DATA, shuffle=False)
    np.testing.assert_array_equal(result.params["weight"], expected.params["weight"])


X, Y = DATA["x"], DATA["y"]
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a column too few": ({"x": X}, ShapeMismatch, "column 'y' is missing; the plan takes x, y"),
    "a column too many": ({"x": X, "y": Y, "z": Y}, ShapeMismatch, "column 'z' is not expected"),
    "another width": ({"x": X[:, :3], "y": Y}, ShapeMismatch, r"shape \[50, 3\], expected \['batch', 4\]"),
    "a scalar": ({"x": np.float32(1), "y": Y}, ShapeMismatch, "expected"),
    "lengths": ({"x": X, "y": Y[:9]}, ShapeMismatch, "has 9 examples, the others have 50"),
    "float labels": ({"x": X, "y": Y.astype(np.float32)}, InvalidInput, "cannot become int64"),
    "text": ({"x": np.full((50, 4), "a"), "y": Y}, InvalidInput, "cannot become float32"),
    "a label too large": (
        {"x": X, "y": np.where(np.arange(50) == 30, 3, Y)},
        InvalidInput,
        "column 'y' contains 3 in example 30; allowed are 0 to 2",
    ),
    "a negative label": ({"x": X, "y": np.full(50, -1)}, InvalidInput, "contains -1 in example 0; allowed are 0 to 2"),
    "NaN": ({"x": np.where(np.arange(50)[:, None] == 9, np.nan, X), "y": Y}, NonFinite, "its port is .optional()"),
    "a masked number": ({"x": np.ma.array(X, mask=X[9, 0] == X), "y": Y}, NonFinite, "in example 9"),
    "a masked label": ({"x": X, "y": np.ma.array(Y, mask=np.arange(50) == 9)}, InvalidInput, "has masked values"),
    "no examples": ({"x": X[:0], "y": Y[:0]}, InvalidInput, "no examples"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("call", ["train", "evaluate", "gradients", "train_batches"])
def test_data_that_does_not_fit_is_refused_before_anything_runs(runner, name, call):
    data, kind, reason = REFUSED[name]
    method = getattr(runner, call.removesuffix("_batches"))
    with pytest.raises(kind, match=reason):
        method(PARAMS, [data] if call.endswith("_batches") else data)


def test_a_value_for_what_has_no_label_is_taken_and_no_other():
    """Of the labels 0 to 2, the port declares 2 as that of examples without a label."""
    runner = Runner(logistic_plan(data={"x": DataPort("float32", (4,)), "y": DataPort("int64", (), "", 2, ignore=2)}))
    assert (Y == 2).any()
    runner.train(PARAMS, {"x": X, "y": Y})
    runner.train(PARAMS, {"x": X, "y": Y.astype(np.uint8)})
    for wrong in (3, 254, -1):
        with pytest.raises(
            InvalidInput, match=f"contains {wrong} in example 31; allowed are 0 to 1, or 2 for"
        ) as caught:
            runner.train(PARAMS, {"x": X, "y": np.where(np.arange(50) == 31, wrong, Y)})
        assert (caught.value.fields["column"], caught.value.fields["example"]) == ("y", 31)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"weight": PARAMS["weight"]}, "no array 'bias'"),
        ({**PARAMS, "more": PARAMS["bias"]}, "an array 'more', which the plan does not take"),
        ({**PARAMS, "bias": np.zeros(4, np.float32)}, r"float32 \[4\]; the plan takes float32 \[3\]"),
        ({**PARAMS, "bias": np.zeros(3)}, "is float64"),
    ],
)
def test_models_that_do_not_fit_are_refused(runner, params, reason):
    with pytest.raises(ShapeMismatch, match=reason):
        runner.train(params, DATA)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hyper": {"lr": 2.0}}, "hyperparameter 'lr' is 2.0; the plan allows 1e-05 to 1.0"),
        ({"hyper": {"lr": float("nan")}}, "is nan"),
        ({"hyper": {"momentum": 0.5}}, "no hyperparameter 'momentum'; it has lr"),
        ({"batch_size": 0}, "takes 1 to 1024"),
        ({"batch_size": 2000}, "takes 1 to 1024"),
        ({"epochs": -1}, "epochs is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(runner, options, reason):
    with pytest.raises(InvalidInput, match=reason):
        runner.train(PARAMS, DATA, **options)


def test_a_graph_that_the_plan_lacks_is_named():
    g = GraphBuilder()
    g.op("ReduceMean", "data/x", keepdims=0, out="metrics/loss")
    g.op("Identity", "params/w", out="new/params/w")
    inputs, outputs = (f32("params/w", 4), f32("data/x", "batch", 4)), (f32("new/params/w", 4), f32("metrics/loss"))
    runner = Runner(Plan.from_bytes(make_plan({"train": (g, inputs, outputs)})))
    with pytest.raises(InvalidPlan, match="has no graph 'eval'; it has train"):
        runner.evaluate({"w": np.zeros(4, np.float32)}, {"x": X})


def dropout_plan() -> Plan:
    """Each step adds the mean of the noise that is below a rate, so that the noise shows in the result."""
    g = GraphBuilder()
    mask = g.op("Cast", g.op("Less", "noise/drop", "hyper/rate"), to=TensorProto.FLOAT)
    seen = g.op("Mul", g.op("Mul", mask, "noise/drop"), "data/x")
    g.op("ReduceMean", seen, keepdims=0, out="metrics/loss")
    g.op("Add", "params/w", g.op("ReduceMean", seen, g.ints(0), keepdims=0), out="new/params/w")
    inputs = (f32("params/w", 4), f32("hyper/rate"), f32("data/x", "batch", 4), f32("noise/drop", "batch", 4))
    outputs = (f32("new/params/w", 4), f32("metrics/loss"))
    return Plan.from_bytes(
        make_plan(
            {"train": (g, inputs, outputs)}, noise={"drop": NoisePort((4,))}, hyper={"rate": Hyper(0.5, 0.0, 1.0)}
        )
    )


def test_noise_is_seeded_uniform_and_new_in_each_batch():
    runner, params, ones = Runner(dropout_plan()), {"w": np.zeros(4, np.float32)}, {"x": np.ones((64, 4), np.float32)}
    result = runner.train(params, ones, batch_size=32, hyper={"rate": 1.0}, seed=3)
    generator = np.random.Generator(np.random.PCG64([3, 0, 1]))
    expected = sum(generator.random((32, 4), dtype=np.float32).mean(0) for _ in range(2))
    np.testing.assert_allclose(result.params["w"], expected, atol=1e-6)
    again = runner.train(params, ones, batch_size=32, hyper={"rate": 1.0}, seed=3)
    np.testing.assert_array_equal(result.params["w"], again.params["w"])


def test_mapped_files_are_data_too(runner, tmp_path):
    for name, array in DATA.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in DATA}
    result = runner.train(PARAMS, mapped, shuffle=False)
    np.testing.assert_array_equal(result.params["weight"], runner.train(PARAMS, DATA, shuffle=False).params["weight"])


def test_arrays_that_lie_badly_in_memory_are_data_and_model_too(runner):
    params = {name: np.asfortranarray(array) for name, array in PARAMS.items()}
    data = {"x": np.asfortranarray(DATA["x"]), "y": np.repeat(DATA["y"], 2)[::2]}
    result = runner.train(params, data, shuffle=False)
    np.testing.assert_array_equal(result.params["weight"], runner.train(PARAMS, DATA, shuffle=False).params["weight"])


def test_several_threads_may_each_have_a_runner():
    results: list[Any] = [None] * 4

    def work(index: int) -> None:
        results[index] = Runner(PLAN).train(PARAMS, DATA, epochs=2, seed=1).params["weight"]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, results[0])
