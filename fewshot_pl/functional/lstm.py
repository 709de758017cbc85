"""The steps of an ordinary LSTM, written out."""

import torch
from torch import Tensor


def lstm_step(gates: Tensor, cell: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The hidden state and cell [..., D] of an LSTM after one step.

    Args:
        gates: [..., 4D], before their non-linearities: input, forget, candidate, output, in the order of ``nn.LSTM``.
        cell: [..., D], before the step.
        dim: the dimension of size D, or 4D.
    """
    into, keep, candidate, out = gates.chunk(4, dim)
    cell = keep.sigmoid() * cell + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def lstm_hidden_states(input_gates: Tensor, recurrent_weight: Tensor) -> Tensor:
    """The hidden states [n, D] of an LSTM that reads a sequence from zero states.

    Written out because torch's own LSTM cannot be mapped over tasks by vmap.

    Args:
        input_gates: [n, 4D], what the inputs and the bias add to the gates.
        recurrent_weight: [4D, D].
    """
    hidden = cell = torch.zeros_like(input_gates[0].chunk(4)[0])
    states = []
    for gates in input_gates.unbind():
        hidden, cell = lstm_step(gates + recurrent_weight @ hidden, cell)
        states.append(hidden)
    return torch.stack(states)
