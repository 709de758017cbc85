"""Attention over the support, and the recurrent steps of full context (Vinyals et al. 2016, sections 2.1 and A)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fewshot_pl.functional.prototypes import one_hot


def log_class_attention(similarities: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """The logarithm [n, N] of the attention that each class of the support receives (equation 1).

    Attention is the softmax over all support items, summed per class: the rows are normalised log-probabilities, so
    that cross-entropy on them is the negative log-likelihood. A class without support has -inf.

    Args:
        similarities: [n, M], of n queries to M support items.
        labels: [M], 0..N-1.
        num_ways: N.
    """
    log_attention = F.log_softmax(similarities, -1)
    members = one_hot(labels, num_ways).T  # [N, M]
    return torch.where(members, log_attention[:, None], -torch.inf).logsumexp(-1)


def attention_read_out(points: Tensor, memory: Tensor) -> Tensor:
    """The mean [n, D] of a memory [M, D] under each point's [n, D] attention, the softmax of dot products."""
    return F.softmax(points @ memory.T, -1) @ memory


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden state and cell [..., D] of an LSTM after one step.

    Args:
        gates: [..., 4D], before their non-linearities: input, forget, candidate, output, in the order of ``nn.LSTM``.
        cell: [..., D], before the step.
    """
    into, keep, candidate, out = gates.chunk(4, -1)
    cell = keep.sigmoid() * cell + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def lstm_hidden_states(input_gates: Tensor, recurrent_weight: Tensor) -> Tensor:
    """The hidden states [n, D] of an LSTM that reads a sequence from zero states.

    Written out because torch's own LSTM cannot be mapped over tasks by vmap.

    Args:
        input_gates: [n, 4D], what the inputs and the bias give to the gates.
        recurrent_weight: [4D, D].
    """
    hidden = cell = torch.zeros_like(input_gates[0].chunk(4)[0])
    states = []
    for gates in input_gates.unbind():
        hidden, cell = lstm_step(gates + recurrent_weight @ hidden, cell)
        states.append(hidden)
    return torch.stack(states)
