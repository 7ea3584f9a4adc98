"""``pygrid plan build``: build a plan file from PyTorch source."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid import codes
from pygrid.cli.output import say_lines
from pygrid.errors import AuthoringError

if TYPE_CHECKING:
    from pygrid.plans.authoring.optim import Optimizer

_OPTIMIZERS = ("SGD", "Adam", "AdamW")


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
    targets: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Dialects of clients of 2020: tfjs, torchscript, torchscript-list, list."),
    ] = None,
    batch_sizes: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Batch sizes of the dialects, with commas; 32 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the model's initial weights.")] = 0,
) -> None:
    """Build a plan from PyTorch source, compare it with PyTorch, and write it.

    MODULE is a dotted name or the path of a .py file. Dialects are written to PATH.variants.

    Example:
        pygrid plan build examples/plans/digits.py:loss \\
            --model examples/plans/digits.py:Net -o digits.plan
    """
    from pygrid.plans.authoring import initial_params, make_model, summary
    from pygrid.plans.authoring.decorators import AveragingPlan, LossPlan, StepPlan
    from pygrid.tensors import encode

    described, factory = load_object(source), load_object(model)
    if not isinstance(described, LossPlan | StepPlan | AveragingPlan):
        raise AuthoringError(
            f"{source} is not decorated; put @pygrid.plan, @pygrid.train_step or @pygrid.averaging_plan above it",
            code=codes.PLAN_SOURCE,
        )
    options: dict[str, Any] = {}
    if isinstance(described, LossPlan):
        options = {"private": private, "optimizer": None if optimizer is None else read_optimizer(optimizer)}
        options |= {"targets": _split(targets), "batch_sizes": _read_sizes(batch_sizes)}
    elif optimizer is not None or private or targets is not None or batch_sizes is not None:
        raise AuthoringError(
            "--optimizer, --private, --targets and --batch-sizes are for plans made of a loss", code=codes.PLAN_OPTIONS
        )
    net = make_model(factory, seed=seed)
    plan = described.build(net, **options)
    plan.save(output)
    if weights is not None:
        weights.write_bytes(encode(initial_params(net)))
    say_lines("\n".join(summary(plan)))
    for dialect, reason in plan.variants.unavailable.items() if plan.variants is not None else ():
        say_lines(f"not available as {dialect}: {reason}")


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _read_sizes(numbers: str | None) -> list[int] | None:
    """The numbers of a text like ``8,16``.

    Raises:
        AuthoringError: one is not a whole number.
    """
    try:
        return None if numbers is None else [int(number) for number in numbers.split(",")]
    except ValueError:
        raise AuthoringError(
            f"{numbers!r} in --batch-sizes must be whole numbers with commas, like 8,16", code=codes.PLAN_OPTIONS
        ) from None


def load_object(reference: str) -> Any:
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
    kind: type[Optimizer] = getattr(optim, name)
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := options.keys() - set(known):
        raise AuthoringError(
            f"{name} has no option {min(unknown)!r}; it takes {', '.join(known)}", code=codes.PLAN_OPTIMIZER
        )
    return kind(**options)
