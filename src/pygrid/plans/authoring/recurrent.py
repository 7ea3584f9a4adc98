"""Recurrent layers, unrolled over time with operators that a plan has.

The formulas are those of the documentation of ``torch.nn.LSTM``, ``GRU`` and ``RNN``. The weights are in torch's order
(``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``, ``weight_hr``; layer by layer, forward before backward). The
product of the inputs with ``weight_ih`` does not depend on the previous step, so it is computed for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

MAX_LENGTH = 128
"""Largest number of steps that are unrolled; each step adds about sixty nodes to the graph."""

State = tuple[torch.Tensor, ...]


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
    lengths: torch.Tensor | None = None
    """The number of steps of each example, if they differ; later steps are padding."""

    @property
    def length(self) -> int:
        length: int = self.x.shape[1 if self.batch_first else 0]
        return length

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def weights_of(self, index: int) -> LayerWeights:
        """The weights of a layer in one direction; ``index`` counts layers and directions."""
        size = len(self.weights) // (self.num_layers * self.num_directions)
        part = list(self.weights[index * size : (index + 1) * size])
        b_ih, b_hh = (part[2], part[3]) if self.has_biases else (None, None)
        return LayerWeights(part[0], part[1], b_ih, b_hh, part[-1] if size % 2 else None)

    def state_of(self, index: int) -> State:
        """The first state of a layer in one direction."""
        return tuple(state[index] for state in ((self.hx,) if isinstance(self.hx, torch.Tensor) else self.hx))


@dataclass(frozen=True)
class LayerWeights:
    w_ih: torch.Tensor
    w_hh: torch.Tensor
    b_ih: torch.Tensor | None
    b_hh: torch.Tensor | None
    w_hr: torch.Tensor | None
    """Projection of the outputs of an LSTM with ``proj_size``."""


Cell = Callable[[LayerWeights, torch.Tensor, State], State]
"""From the weights, one step's product of the inputs with ``w_ih``, and the last state to the next one, (h, ...)."""


def _run(call: RecurrentCall, cell: Cell, *, bias_inside: bool) -> tuple[torch.Tensor, ...]:
    """Outputs and last states of all layers and directions, as torch returns them.

    Args:
        bias_inside: whether ``b_hh`` belongs to the product with the inputs.
    """
    x = call.x.transpose(0, 1) if call.batch_first else call.x
    last: list[State] = []
    for layer in range(call.num_layers):
        if layer and call.dropout and call.training:
            # noise has the batch axis first, so that it belongs to examples
            x = F.dropout(x.transpose(0, 1), call.dropout, True).transpose(0, 1)
        outputs = []
        for direction in range(call.num_directions):
            index = layer * call.num_directions + direction
            made, state = _run_layer(call, cell, x, index, backwards=bool(direction), bias_inside=bias_inside)
            outputs.append(made)
            last.append(state)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    states = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return (x.transpose(0, 1) if call.batch_first else x, *states)


def _run_layer(
    call: RecurrentCall, cell: Cell, x: torch.Tensor, index: int, *, backwards: bool, bias_inside: bool
) -> tuple[torch.Tensor, State]:
    """Outputs ``[time, batch, features]`` and last state of one layer in one direction."""
    weights = call.weights_of(index)
    bias = weights.b_ih
    if bias is not None and weights.b_hh is not None and bias_inside:
        bias = bias + weights.b_hh
    parts = F.linear(x, weights.w_ih, bias).unbind(0)
    state = call.state_of(index)
    outputs = []
    for time in reversed(range(len(parts))) if backwards else range(len(parts)):
        moved = cell(weights, parts[time], state)
        if call.lengths is None:
            state = moved
            outputs.append(state[0])
        else:
            is_step = (call.lengths > time).unsqueeze(1)
            state = tuple(torch.where(is_step, new, old) for new, old in zip(moved, state, strict=True))
            outputs.append(torch.where(is_step, state[0], 0.0))
    return torch.stack(outputs[::-1] if backwards else outputs), state


def lstm(call: RecurrentCall) -> tuple[torch.Tensor, ...]:
    """Outputs, last h and last c, as ``torch.lstm`` returns them."""

    def cell(weights: LayerWeights, part: torch.Tensor, state: State) -> State:
        h, c = state
        gates = part + h @ weights.w_hh.t()
        i, f, g, o = gates.reshape(-1, 4, c.shape[1]).unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h if weights.w_hr is None else h @ weights.w_hr.t()), c

    return _run(call, cell, bias_inside=True)


def gru(call: RecurrentCall) -> tuple[torch.Tensor, ...]:
    """Outputs and last h, as ``torch.gru`` returns them."""

    def cell(weights: LayerWeights, part: torch.Tensor, state: State) -> State:
        (h,) = state
        r_x, z_x, n_x = part.reshape(-1, 3, h.shape[1]).unbind(1)
        r_h, z_h, n_h = F.linear(h, weights.w_hh, weights.b_hh).reshape(-1, 3, h.shape[1]).unbind(1)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
        return (n + z * (h - n),)

    return _run(call, cell, bias_inside=False)


def elman(call: RecurrentCall, activation: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Outputs and last h of a simple recurrent layer."""

    def cell(weights: LayerWeights, part: torch.Tensor, state: State) -> State:
        return (activation(part + F.linear(state[0], weights.w_hh, weights.b_hh)),)

    return _run(call, cell, bias_inside=False)


def run_with_lengths(layer: torch.nn.RNNBase, x: torch.Tensor, lengths: torch.Tensor, hx: Any = None) -> Any:
    """The outputs and last states of a recurrent layer over sequences of different lengths, padded behind.

    As ``layer(pack_padded_sequence(x, lengths))`` and ``pad_packed_sequence``, which a plan can't trace: the last state
    of an example is that after its own last step, a backward direction starts at that step, and outputs behind it are
    zero. The outputs have the length of ``x``::

        @pygrid.plan(data={"x": pygrid.Integers["batch", 20](1000), "length": pygrid.Integers["batch"](21), ...})
        def loss(model, x, length, y):
            outputs, (h, c) = pygrid.run_with_lengths(model.lstm, model.embedding(x), length.clamp(min=1))

    Args:
        layer: ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, of any number of layers and directions.
        x: ``[batch, time, features]`` if the layer is ``batch_first``, else ``[time, batch, features]``.
        lengths: int64 ``[batch]``, each from 1 to the number of steps.
        hx: the first state, as the layer takes it; zeros by default.
    """
    if torch.overrides.has_torch_function((x,)):
        return torch.overrides.handle_torch_function(run_with_lengths, (x,), layer, x, lengths, hx)
    steps = x.shape[1 if layer.batch_first else 0]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=layer.batch_first, enforce_sorted=False
    )  # fmt: skip
    outputs, state = layer(packed, hx)
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=layer.batch_first, total_length=steps)
    return padded, state


def call_of(layer: torch.nn.RNNBase, x: torch.Tensor, lengths: torch.Tensor, hx: Any) -> RecurrentCall:
    """The call that `run_with_lengths` stands for."""
    options = (layer.bias, layer.num_layers, layer.dropout, layer.training, layer.bidirectional, layer.batch_first)
    weights = [getattr(layer, name) for name in layer._flat_weights_names]
    call = RecurrentCall(x, hx, weights, *options, lengths)
    if hx is not None:
        return call
    rows = (call.num_layers * call.num_directions, x.shape[0 if layer.batch_first else 1])
    h = x.new_zeros(*rows, layer.proj_size or layer.hidden_size)
    return replace(call, hx=(h, x.new_zeros(*rows, layer.hidden_size)) if layer.mode == "LSTM" else h)


def finished(layer: torch.nn.RNNBase, results: tuple[torch.Tensor, ...]) -> Any:
    """Results of an unrolled layer as the layer's ``forward`` returns them."""
    return results[0], (results[1:] if layer.mode == "LSTM" else results[1])


UNROLLED: dict[str, Callable[[RecurrentCall], tuple[torch.Tensor, ...]]] = {
    "LSTM": lstm,
    "GRU": gru,
    "RNN_TANH": lambda call: elman(call, torch.tanh),
    "RNN_RELU": lambda call: elman(call, torch.relu),
}
"""The function for each ``mode`` of torch's recurrent layers."""
