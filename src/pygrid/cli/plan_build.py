"""``pygrid plan build``: build a plan file from PyTorch source."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid import codes
from pygrid.cli.common import handle_errors
from pygrid.cli.output import say_lines
from pygrid.errors import AuthoringError

if TYPE_CHECKING:
    from pygrid.plans.authoring.optim import Optimizer

_OPTIMIZERS = ("SGD", "Adam", "AdamW")


@handle_errors
def build(
    source: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Decorated loss, step or averaging rule.")],
    model: Annotated[
        str, typer.Option(metavar="MODULE:FACTORY", help="Class or function without arguments that makes the model.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="Plan file to write.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Safetensors file for the model's initial weights.")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Optimizer of a loss: SGD, Adam or AdamW, or 'SGD(momentum=0.9)'."),
    ] = None,
    private: Annotated[bool, typer.Option(help="Whether the plan must be usable by private jobs.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the model's initial weights.")] = 0,
) -> None:
    """Build a plan from PyTorch source, compare it with PyTorch, and write it.

    MODULE is a dotted name or the path of a .py file.

    Example:
        pygrid plan build examples/plans/digits.py:loss \\
            --model examples/plans/digits.py:Net -o digits.plan
    """
    from pygrid.plans.authoring import initial_params, make_model, summary
    from pygrid.plans.authoring.decorators import AveragingPlan, LossPlan, StepPlan
    from pygrid.tensors import encode

    described, factory = _load(source), _load(model)
    if not isinstance(described, LossPlan | StepPlan | AveragingPlan):
        raise AuthoringError(
            f"{source} is not decorated; put @pygrid.plan, @pygrid.train_step or @pygrid.averaging_plan above it",
            code=codes.PLAN_SOURCE,
        )
    options: dict[str, Any] = {}
    if isinstance(described, LossPlan):
        options = {"private": private, "optimizer": None if optimizer is None else read_optimizer(optimizer)}
    elif optimizer is not None or private:
        raise AuthoringError("--optimizer and --private are for plans made of a loss", code=codes.PLAN_OPTIONS)
    net = make_model(factory, seed=seed)
    plan = described.build(net, **options)
    plan.save(output)
    if weights is not None:
        weights.write_bytes(encode(initial_params(net)))
    say_lines("\n".join(summary(plan)))


def _load(reference: str) -> Any:
    """The object of a reference like ``module:name`` or ``path/to/file.py:name``.

    Raises:
        AuthoringError: the module or the name does not exist.
    """
    module_name, separator, name = reference.rpartition(":")
    if not separator or not name:
        raise AuthoringError(f"{reference!r} must be MODULE:NAME, e.g. digits.py:loss", code=codes.PLAN_SOURCE)
    path = Path(module_name)
    if path.suffix == ".py":
        if not path.is_file():
            raise AuthoringError(f"there is no file {path}", code=codes.PLAN_SOURCE)
        module_name = path.stem
        sys.path.insert(0, str(path.resolve().parent))
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AuthoringError(f"cannot import {module_name}: {error}", code=codes.PLAN_SOURCE) from error
    finally:
        del sys.path[0]
    try:
        return getattr(module, name)
    except AttributeError:
        raise AuthoringError(f"{module_name} has no {name!r}", code=codes.PLAN_SOURCE) from None


def read_optimizer(text: str) -> Optimizer:
    """The optimizer of a text like ``SGD(momentum=0.9)``. Only a name and numbers are parsed; nothing is run.

    Raises:
        AuthoringError: the name or an option is unknown.
    """
    from pygrid.plans.authoring import optim

    name, _, inside = text.strip().removesuffix(")").partition("(")
    if name not in _OPTIMIZERS:
        raise AuthoringError(f"unknown optimizer {name!r}; use {', '.join(_OPTIMIZERS)}", code=codes.PLAN_OPTIMIZER)
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in inside.split(","))):
        key, _, value = part.partition("=")
        try:
            options[key.strip()] = value.strip() == "True" if value.strip() in ("True", "False") else float(value)
        except ValueError:
            raise AuthoringError(f"{part!r} in --optimizer must be NAME=NUMBER", code=codes.PLAN_OPTIMIZER) from None
    try:
        made: Optimizer = getattr(optim, name)(**options)
    except TypeError as error:
        raise AuthoringError(f"{name} does not take these options: {error}", code=codes.PLAN_OPTIMIZER) from error
    return made
