"""``pygrid plan build`` makes a plan file of a source file, or says what is wrong with the words on the command
line.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pygrid.cli.plan import app
from pygrid.cli.plan_build import read_optimizer
from pygrid.errors import AuthoringError
from pygrid.plans import Plan
from pygrid.tensors import decode

SOURCE = '''
import torch
import torch.nn.functional as F
import pygrid


@pygrid.plan(data={"x": pygrid.Tensor["batch", 4], "y": pygrid.Label(3)})
def loss(model, x, y):
    """Sort four numbers into three classes."""
    return F.cross_entropy(model(x), y)


@pygrid.averaging_plan()
def mean(diffs):
    return {name: diff.mean(0) for name, diff in diffs.items()}


def make():
    return torch.nn.Linear(4, 3)


net = torch.nn.Linear(4, 3)
'''


@pytest.fixture
def source(tmp_path: Path) -> str:
    # A name of its own: Python keeps imported modules by name.
    path = tmp_path / f"source_{tmp_path.name}.py"
    path.write_text(SOURCE)
    return str(path)


def run(*args: str) -> str:
    result = CliRunner().invoke(app, ["build", *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_it_writes_the_plan_and_the_first_weights(source: str, tmp_path: Path) -> None:
    plan, weights = tmp_path / "out.plan", tmp_path / "out.safetensors"
    output = run(
        f"{source}:loss", "--model", f"{source}:make", "-o", str(plan), "--weights", str(weights), "--optimizer",
        "SGD(momentum=0.9, nesterov=True)", "--seed", "5", "--private",
    )  # fmt: skip
    made = Plan.load(plan)
    assert made.manifest.description == "Sort four numbers into three classes."
    assert made.manifest.optimizer == "SGD(momentum=0.9, nesterov=True)"
    assert "train: " in output
    torch.manual_seed(5)
    assert (decode(weights.read_bytes())[0]["weight"] == torch.nn.Linear(4, 3).weight.detach().numpy()).all()


def test_it_takes_a_model_as_well_as_a_factory_and_other_kinds_of_plans(source: str, tmp_path: Path) -> None:
    run(f"{source}:mean", "--model", f"{source}:net", "-o", str(tmp_path / "mean.plan"))
    assert Plan.load(tmp_path / "mean.plan").manifest.kind == "averaging"


@pytest.mark.parametrize(
    ("what", "model", "more", "words"),
    [
        ("loss", "make", (), "must be MODULE:NAME"),
        (":none", ":make", (), "has no 'none'"),
        (":make", ":make", (), "is not decorated"),
        (":mean", ":make", ("--private",), "are for plans made of a loss"),
        (":loss", ":make", ("--optimizer", "Magic"), "unknown optimizer 'Magic'; use SGD, Adam, AdamW"),
        (":loss", ":make", ("--optimizer", "SGD(beta=1)"), "SGD has no option 'beta'; it takes"),
        (":loss", ":make", ("--optimizer", "SGD(momentum=much)"), "must be NAME=NUMBER"),
    ],
)
def test_mistakes_on_the_command_line(
    source: str, tmp_path: Path, what: str, model: str, more: tuple[str, ...], words: str
) -> None:
    prefix = source if what.startswith(":") else ""
    with pytest.raises(AuthoringError) as caught:
        run(f"{prefix}{what}", "--model", f"{prefix}{model}", "-o", str(tmp_path / "out.plan"), *more)
    assert words in caught.value.detail
    assert not (tmp_path / "out.plan").exists()


def test_a_missing_source_is_named() -> None:
    with pytest.raises(AuthoringError, match=r"there is no file nowhere\.py"):
        run("nowhere.py:loss", "--model", "nowhere.py:make", "-o", "out.plan")
    with pytest.raises(AuthoringError, match="cannot import no_such_module_here"):
        run("no_such_module_here:loss", "--model", "no_such_module_here:make", "-o", "out.plan")


def test_an_optimizer_is_read_not_run() -> None:
    assert str(read_optimizer("Adam")) == "Adam()"
    assert str(read_optimizer("AdamW(weight_decay=0.2)")) == "AdamW(weight_decay=0.2)"
    with pytest.raises(AuthoringError):
        read_optimizer("__import__('os')")
