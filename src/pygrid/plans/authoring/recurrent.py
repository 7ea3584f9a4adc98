"""Recurrent layers, unrolled over time with operators that a plan has.

The formulas are those of the documentation of ``torch.nn.LSTM``, ``GRU`` and ``RNN``. The weights are in torch's order
(``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, layer by layer). The product of the inputs with ``weight_ih``
does not depend on the previous step, so it is computed for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

MAX_LENGTH = 128
"""Largest number of steps that are unrolled; each step adds about sixty nodes to the graph."""


@dataclass(frozen=True)
class RecurrentCall:
    """The arguments of ``torch.lstm``, ``gru`` and ``rnn_*``; ``hx`` is one tensor, or (h, c) for an LSTM."""

    x: torch.Tensor
    hx: torch.Tensor | Sequence[torch.Tensor]
    weights: Sequence[torch.Tensor]
    has_biases: bool
    num_layers: int
    dropout: float
    training: bool
    bidirectional: bool
    batch_first: bool

    @property
    def length(self) -> int:
        length: int = self.x.shape[1 if self.batch_first else 0]
        return length

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        size = 4 if self.has_biases else 2
        part = self.weights[index * size : (index + 1) * size]
        return (part[0], part[1], part[2], part[3]) if self.has_biases else (part[0], part[1], None, None)


def _run_layers(
    call: RecurrentCall, step_layer: Callable[[int, torch.Tensor], tuple[torch.Tensor, ...]]
) -> list[tuple[torch.Tensor, ...]]:
    """The results of each layer, run on the outputs of the layer below.

    ``step_layer`` returns (outputs [time, batch, hidden], last states...).
    """
    x = call.x.transpose(0, 1) if call.batch_first else call.x
    results = []
    for index in range(call.num_layers):
        if index and call.dropout and call.training:
            # noise has the batch axis first, so that it belongs to examples
            x = F.dropout(x.transpose(0, 1), call.dropout, True).transpose(0, 1)
        results.append(step_layer(index, x))
        x = results[-1][0]
    return results


def lstm(call: RecurrentCall) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs, last h and last c, as ``torch.lstm`` returns them."""
    first_h, first_c = call.hx

    def layer(index: int, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh = call.layer(index)
        h, c = first_h[index], first_c[index]
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        outputs = []
        product = F.linear(x, w_ih, bias)
        for part in product.unbind(0):
            gates = part + h @ w_hh.t()
            i, f, g, o = gates.reshape(-1, 4, h.shape[1]).unbind(1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), h, c

    results = _run_layers(call, layer)
    return (
        _batch_order(call, results[-1][0]),
        torch.stack([r[1] for r in results]),
        torch.stack([r[2] for r in results]),
    )


def gru(call: RecurrentCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last h, as ``torch.gru`` returns them."""
    assert isinstance(call.hx, torch.Tensor)
    first_h = call.hx

    def layer(index: int, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh = call.layer(index)
        h = first_h[index]
        outputs = []
        for part in F.linear(x, w_ih, b_ih).unbind(0):
            r_x, z_x, n_x = part.reshape(-1, 3, h.shape[1]).unbind(1)
            r_h, z_h, n_h = F.linear(h, w_hh, b_hh).reshape(-1, 3, h.shape[1]).unbind(1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            n = torch.tanh(n_x + r * n_h)
            h = n + z * (h - n)
            outputs.append(h)
        return torch.stack(outputs), h

    results = _run_layers(call, layer)
    return _batch_order(call, results[-1][0]), torch.stack([r[1] for r in results])


def elman(call: RecurrentCall, activation: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last h of a simple recurrent layer."""
    assert isinstance(call.hx, torch.Tensor)
    first_h = call.hx

    def layer(index: int, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh = call.layer(index)
        h = first_h[index]
        outputs = []
        for part in F.linear(x, w_ih, b_ih).unbind(0):
            h = activation(part + F.linear(h, w_hh, b_hh))
            outputs.append(h)
        return torch.stack(outputs), h

    results = _run_layers(call, layer)
    return _batch_order(call, results[-1][0]), torch.stack([r[1] for r in results])


def _batch_order(call: RecurrentCall, outputs: torch.Tensor) -> torch.Tensor:
    return outputs.transpose(0, 1) if call.batch_first else outputs
