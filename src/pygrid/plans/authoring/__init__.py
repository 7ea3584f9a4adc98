"""Plans from plain PyTorch: decorate a loss, build it for a model, and get a plan file.

    @pygrid.plan(data={"x": pygrid.Tensor["batch", 64], "y": pygrid.Label(10)}, hyper={"lr": pygrid.Float(0.1)})
    def loss(model, x, y):
        logits = model(x)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(-1) == y).float().mean()}

    plan = loss.build(Net(), optimizer=pygrid.optim.SGD(momentum=0.9))
    plan.save("digits.plan")

This is the only part of pygrid that needs PyTorch (the extra ``torch``). It runs on the author's machine.

    decorators                functions that authors call
    programs                  functions that become graphs
    optim, ports              optimizers; types of data and hyperparameters
    interception              replacements and refusals while author code is traced
    recurrent, matrices       the replacements that are longer
    tracing                   from a function to ATen operators
    lowering                  from ATen operators to ONNX
    emit                      tracing and lowering together
    predictions, inference    the graph for predictions
    selfcheck                 comparison with eager torch
    state, statecheck         attributes that a model changes while it runs
    build                     plan file and manifest
    loading                   trained weights into a PyTorch model
    diagnostics               messages that name the author's line
"""

import importlib.util

from pygrid import codes
from pygrid.errors import AuthoringError

if importlib.util.find_spec("torch") is None:
    raise AuthoringError("writing plans needs PyTorch: pip install 'pygrid[torch]'", code=codes.TORCH_MISSING)

from pygrid.plans.authoring import optim
from pygrid.plans.authoring.build import summary
from pygrid.plans.authoring.decorators import averaging_plan, plan, train_step
from pygrid.plans.authoring.loading import load_into
from pygrid.plans.authoring.ports import Float, Integers, Label, Tensor, Text
from pygrid.plans.authoring.programs import initial_params, make_model
from pygrid.plans.authoring.recurrent import run_with_lengths

__all__ = [
    "Float",
    "Integers",
    "Label",
    "Tensor",
    "Text",
    "averaging_plan",
    "initial_params",
    "load_into",
    "make_model",
    "optim",
    "plan",
    "run_with_lengths",
    "summary",
    "train_step",
]
