"""A trained process goes back into PyTorch, becomes an ONNX file, and is served, by the SDK and by commands.

Should happen: after a training by a device, four ways to predict agree: PyTorch, the ONNX file, the served model of the
SDK and that of the command. Should not happen: labels as inputs, or a model that does not match and is changed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="building the plan needs PyTorch")

import torch

import pygrid.client
from pygrid.cli import app
from pygrid.client import Process
from pygrid.edge import MemoryCache, participate
from pygrid.errors import Conflict, InvalidConfig, InvalidPlan, ShapeMismatch
from pygrid.tensors import decode, encode
from pygrid.transport import AsgiTransport
from support.sdk import host, owner_of, running_domain

SOURCE = '''
import torch, pygrid
import torch.nn.functional as F

class Net(torch.nn.Module):
    """Steps of two sensors through an LSTM, normalized over the batch."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(2, 6, batch_first=True)
        self.head = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
        self.last = self.head[1]

    def forward(self, x):
        hidden, _ = self.lstm(x)
        return self.head(hidden[:, -1])

@pygrid.plan(data={"x": pygrid.Tensor["batch", 4, 2], "y": pygrid.Label(3)})
def loss(model, x, y):
    return F.cross_entropy(model(x), y)
'''
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(150, 4, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("source") / "steps_of_sensors.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsgiTransport]:
    with running_domain(tmp_path_factory.mktemp("domain")) as transport:
        yield transport


@pytest.fixture(scope="module")
def process(source: Any, transport: AsgiTransport) -> Process:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = source.Net()
    process = owner_of(transport).host(
        "steps",
        "1.0",
        model=model,
        plans=source.loss.build(model),
        client_config={"epochs": 2, "batch_size": 32, "lr": 0.5},
        server_config={"num_cycles": 1, "cycle_length": 60, "min_diffs": 1, "max_diffs": 1},
    )
    data = {"x": X, "y": X[:, -1].argmax(1)}
    participate("", "steps", data, transport=transport, cache=MemoryCache(), cycles=1, wait_s=2.0)
    process.wait(timeout_s=180)
    return process


def command(transport: AsgiTransport, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr(pygrid.client, "connect", lambda url=None: owner_of(transport))
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_four_ways_to_predict_agree(
    process: Process, source: Any, transport: AsgiTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = process.load_into(source.Net()).eval()
    before = process.load_into(source.Net(), checkpoint=1).eval()
    with torch.no_grad():
        expected, untrained = (net(torch.from_numpy(X)).numpy() for net in (model, before))
    assert np.abs(expected - untrained).max() > 0.01

    path = process.export_onnx(tmp_path / "steps.onnx")
    assert path.read_bytes() == process.export_onnx()
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [port.name for port in session.get_inputs()] == ["x"]
    np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, atol=1e-5)
    session = onnxruntime.InferenceSession(process.export_onnx(checkpoint=1))
    np.testing.assert_allclose(session.run(None, {"x": X})[0], untrained, atol=1e-5)

    served = process.serve(allow_remote_inference=True, description="steps")
    assert (served.id, served.info.rows_independent) == ("steps", True)
    # 150 examples are more than one request takes.
    np.testing.assert_allclose(owner_of(transport).model("steps").predict({"x": X})["output"], expected, atol=1e-5)
    with pytest.raises(Conflict):
        process.serve()
    with pytest.raises(InvalidConfig, match=r"serve has no field 'id'; its fields are .* and visibility"):
        process.serve(id="other")  # type: ignore[call-arg]

    said = command(transport, monkeypatch, "process", "serve", "steps", "--id", "again", "--allow-inference")
    assert said.startswith("again is served")
    np.testing.assert_allclose(
        owner_of(transport).model("again").predict({"x": X[:5]})["output"], expected[:5], atol=1e-5
    )
    command(transport, monkeypatch, "process", "export", "steps", "-o", tmp_path / "by_command.onnx")
    assert (tmp_path / "by_command.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_command_writes_what_load_state_dict_reads(
    process: Process,
    source: Any,
    transport: AsgiTransport,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    suffix: str,
) -> None:
    weights = process.download()
    path = tmp_path / f"steps.{suffix}"
    factory = "steps_of_sensors:Net"
    assert "arrays" in command(transport, monkeypatch, "model", "load", "steps", "--model", factory, "-o", path)
    model = source.Net()
    if suffix == "pt":
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        (tmp_path / "checkpoint.safetensors").write_bytes(encode(weights))
        command(
            transport, monkeypatch, "model", "load", tmp_path / "checkpoint.safetensors", "--model", factory, "-o", path
        )
        arrays = decode(path.read_bytes())[0]
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    np.testing.assert_array_equal(model.last.weight.detach(), weights["head.1.weight"])
    np.testing.assert_array_equal(model.head[0].running_mean, weights["head.0.running_mean"])


def test_a_model_that_does_not_match_is_named(process: Process) -> None:
    with pytest.raises(ShapeMismatch, match=r"the weights lack weight \[3, 2\].*the model lacks .*lstm.weight_ih_l0"):
        process.load_into(torch.nn.Linear(2, 3))


def test_a_plan_without_predictions_says_what_to_do(transport: AsgiTransport) -> None:
    process = host(owner_of(transport), "old")
    with pytest.raises(InvalidPlan, match="Build it with a function for them") as caught:
        process.export_onnx()
    assert caught.value.code == "plan_graph_missing"
