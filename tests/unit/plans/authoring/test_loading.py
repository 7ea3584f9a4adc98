"""Trained weights go back into a PyTorch model by one call.

Should happen: every trained parameter and buffer arrives, under each name of a layer, whatever the dtype and device of
its place. Should not happen: a model that is changed in part, or an error that does not say which names differ.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pygrid
from pygrid.errors import InvalidInput, ShapeMismatch
from pygrid.plans.authoring import initial_params
from pygrid.plans.authoring.loading import save_state
from pygrid.tensors import encode


class Named(nn.Module):
    """Layers with two names, a shared weight, buffers, a counter and a buffer outside of checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.net = nn.Sequential(self.one, self.norm, nn.ReLU(), self.two)
        self.register_buffer("scale", torch.ones(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale


def changed(model: nn.Module) -> dict[str, Any]:
    return {name: array + 1 for name, array in initial_params(model).items()}


def equal(model: nn.Module, params: dict[str, Any]) -> bool:
    return all(np.array_equal(array, params[name]) for name, array in initial_params(model).items())


def test_layers_with_several_names_and_shared_weights() -> None:
    params, model = changed(Named()), Named()
    assert pygrid.load_into(model, params) is model
    assert equal(model, params)
    assert model.two.weight is model.one.weight
    assert model.net[0] is model.one
    strict = Named()
    strict.load_state_dict(model.state_dict())
    assert equal(strict, params)


@pytest.mark.parametrize("convert", [dict, lambda params: {k: torch.from_numpy(v) for k, v in params.items()}])
def test_arrays_and_tensors(convert: Callable[[Any], Any]) -> None:
    params, model = changed(Named()), Named()
    assert equal(pygrid.load_into(model, convert(params)), params)


def test_a_file_also_of_read_only_arrays(tmp_path: Path) -> None:
    params, model = changed(Named()), Named()
    (tmp_path / "w.safetensors").write_bytes(encode(params))
    assert equal(pygrid.load_into(model, tmp_path / "w.safetensors"), params)
    for array in params.values():
        array.flags.writeable = False
    assert equal(pygrid.load_into(Named(), params), params)
    with pytest.raises(InvalidInput, match="no model file"):
        pygrid.load_into(model, tmp_path / "nothing")


def test_a_whole_state_dict_and_its_counters() -> None:
    source, model = Named(), Named()
    source(torch.ones(4, 8))
    pygrid.load_into(model, source.state_dict())
    assert model.norm.num_batches_tracked == 1
    assert equal(model, initial_params(source))


def test_a_model_of_another_dtype_or_compiled() -> None:
    params = changed(Named())
    double = pygrid.load_into(Named().double(), params)
    assert double.one.weight.dtype is torch.float64
    assert equal(double, params)
    half = pygrid.load_into(Named().bfloat16(), params)
    np.testing.assert_allclose(initial_params(half)["one.bias"], params["one.bias"], rtol=1e-2)
    plain = Named()
    pygrid.load_into(torch.compile(plain, backend="eager"), params)
    assert equal(plain, params)


def without(params: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: array for key, array in params.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p: without(p, "norm.running_mean"), r"the weights lack norm.running_mean \[8\]"),
        (lambda p: without(p, "one.weight"), r"the weights lack one.weight \[8, 8\]"),
        (lambda p: p | {"head.weight": np.ones((2, 3), np.float32)}, r"the model lacks head.weight \[2, 3\]"),
        (
            lambda p: p | {"two.bias": np.ones(3, np.float32)},
            r"two.bias is \[8\] in the model and \[3\] in the weights",
        ),
        (lambda p: p | {"net.0.bias": p["one.bias"] + 1}, "different values: one.bias and net.0.bias"),
        (lambda p: {}, "one.weight.*two.bias"),
        (lambda p: {f"x{i}": np.ones(1, np.float32) for i in range(30)}, r"x9 \[1\] and 20 more"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(spoil: Callable[[Any], Any], told: str) -> None:
    model = Named()
    before = initial_params(model)
    with pytest.raises(ShapeMismatch, match=told):
        pygrid.load_into(model, spoil(changed(model)))
    assert equal(model, before)


def test_what_has_no_storage_is_refused() -> None:
    with pytest.raises(InvalidInput, match="call it on a batch first"):
        pygrid.load_into(nn.LazyLinear(3), {})
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(InvalidInput, match="to_empty"):
        pygrid.load_into(model, initial_params(nn.Linear(2, 2)))
    with pytest.raises(InvalidInput, match="dict is not a torch"):
        pygrid.load_into({}, {})  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["state.pt", "state.safetensors"])
def test_a_saved_state_has_all_names(tmp_path: Path, name: str) -> None:
    params, model = changed(Named()), Named()
    save_state(pygrid.load_into(model, params), tmp_path / name)
    if name == "state.pt":
        state = torch.load(tmp_path / name, weights_only=True)
    else:
        from pygrid.tensors import decode

        state = {k: torch.from_numpy(np.array(v)) for k, v in decode((tmp_path / name).read_bytes())[0].items()}
    fresh = Named()
    fresh.load_state_dict(state)
    assert equal(fresh, params)
    with pytest.raises(InvalidInput, match=r"must end in \.pt"):
        save_state(model, tmp_path / "state.bin")
