"""Attention over the support (Vinyals et al. 2016, sections 2.1 and A)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fewshot_pl.functional.prototypes import one_hot


def log_class_attention(similarities: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """The logarithm [n, N] of the attention that each class of the support receives (equation 1).

    Attention is the softmax over all support items, summed per class. The rows are therefore normalised
    log-probabilities, on which cross-entropy is the negative log-likelihood. A class without support has -inf.

    Args:
        similarities: [n, M], between n queries and M support items.
        labels: [M], 0..N-1.
        num_ways: N.
    """
    log_attention = F.log_softmax(similarities, -1)
    members = one_hot(labels, num_ways).T  # [N, M]
    return torch.where(members, log_attention[:, None], -torch.inf).logsumexp(-1)


def attention_read_out(points: Tensor, memory: Tensor) -> Tensor:
    """The mean [n, D] of a memory [M, D], weighted by each point's [n, D] attention, the softmax of dot products."""
    return F.softmax(points @ memory.T, -1) @ memory
