"""The LSTM whose cell state is the weights of a network (Ravi and Larochelle 2017, section 3).

All P coordinates of the weights share one LSTM and form its batch. They are the last dimension, so that each gate of
all of them is one block of memory; with the gates last a step takes twice as long.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_P = 10.0  # values below e^-p in magnitude count as almost zero


class MetaState(NamedTuple):
    """What the LSTM passes from step to step, for all P coordinates."""

    point: Tensor  # [P] theta, the cell of layer 2 and the weights of the network
    gates: Tensor  # [2, P] the input gate i and the forget gate f of the last step, as the next one sees them
    hidden: Tensor  # [H, P] of layer 1
    cell: Tensor  # [H, P] of layer 1


def initial_state(point: Tensor, hidden_size: int) -> MetaState:
    """The state before the first step from a point [P]; all else is zero."""
    zeros = torch.zeros_like(point)
    hidden = zeros.expand(hidden_size, -1)
    return MetaState(point, zeros.expand(2, -1), hidden, hidden)


def preprocessed(values: Tensor) -> Tensor:
    """The magnitude and sign [2, ...] of values [...], each about -1 to 1 (Andrychowicz et al. 2016, appendix A).

    (log|x| / p, sign(x)) where |x| >= e^-p, else (-1, e^p x).
    """
    size = (values.abs().log() / _P).clamp(min=-1)
    sign = (values * math.exp(_P)).clamp(-1, 1)
    return torch.stack([size, sign])


def meta_cell_step(point: Tensor, gradient: Tensor, gates: Tensor) -> Tensor:
    """The point [P] after a step: theta_t = f_t theta_{t-1} - i_t g_t (equation 2, the candidate being -g_t).

    Args:
        point: [P], theta_{t-1}.
        gradient: [P], g_t.
        gates: [2, P], the input gate i_t (a learning rate) and the forget gate f_t (which shrinks the point).
    """
    return gates[1] * point - gates[0] * gradient
