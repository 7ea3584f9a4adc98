"""The ``predict`` program of an author's function of the model."""

from __future__ import annotations

from collections.abc import Mapping

from pygrid.plans.authoring.ports import DataSpec, Float
from pygrid.plans.authoring.predictions import PREDICT, prediction_outputs
from pygrid.plans.authoring.programs import Signature, Subject, bounded_ports, data_ports, hyper_ports, under
from pygrid.plans.authoring.tracing import Arrays, Program


def inference_program(
    subject: Subject, signature: Signature, data: Mapping[str, DataSpec], hyper: Mapping[str, Float]
) -> Program:
    """The ``predict`` program of an author's function of the model and of some data."""
    taken = {name: spec for name, spec in data.items() if name in signature.names}
    own_hyper = hyper_ports(tuple(name for name in hyper if name in signature.names))

    def run(arrays: Arrays) -> Arrays:
        model = under("params", arrays) | {k: v.clone() for k, v in under("buffers", arrays).items()}
        result = subject.call(signature.function, model, signature.arguments(arrays), training=False)
        return prediction_outputs(result)

    inputs = (*subject.ports(), *own_hyper, *data_ports(taken))
    return Program(PREDICT, inputs, run, bounded_ports(taken), dropout=False)
