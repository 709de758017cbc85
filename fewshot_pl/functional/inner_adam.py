"""Adam without momentum, and plain gradient descent, as pure steps on a vector of parameters."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class AdamState(NamedTuple):
    """The state of Adam with beta1 = 0 between steps."""

    num_steps: Tensor  # [] integer
    second_moment: Tensor  # [P] running mean of squared gradients, biased towards its start at 0


class MeanState:
    """The mean of Adam's states after several tasks, all of the same number of steps."""

    def __init__(self) -> None:
        self.state: AdamState | None = None
        self._num_tasks = 0

    def add(self, num_steps: Tensor, second_moments: Tensor) -> None:
        """Add the states after T tasks: ``num_steps``, the same for all, and second moments [T, P]."""
        moment = second_moments.mean(0)
        self._num_tasks += len(second_moments)
        if self.state is not None:
            moment = self.state.second_moment.lerp(moment, len(second_moments) / self._num_tasks)
        self.state = AdamState(num_steps, moment)


def adam_step(
    point: Tensor, gradient: Tensor, state: AdamState, lr: float, beta2: float = 0.999, eps: float = 1e-8
) -> tuple[Tensor, AdamState]:
    """The point [P] after a step of Adam (Kingma and Ba 2015, algorithm 1) with beta1 = 0, and Adam's new state.

    As ``torch.optim.Adam(betas=(0, beta2))``: the step is lr * g / (sqrt(v / (1 - beta2^t)) + eps).
    """
    num_steps = state.num_steps + 1
    second_moment = torch.addcmul(beta2 * state.second_moment, gradient, gradient, value=1 - beta2)
    # 1 - beta2^t, written so that float32 loses no digits at small t.
    correction = -torch.expm1(num_steps.to(second_moment.dtype) * math.log(beta2))
    scale = (second_moment / correction).sqrt() + eps
    return torch.addcdiv(point, gradient, scale, value=-lr), AdamState(num_steps, second_moment)


def sgd_step(point: Tensor, gradient: Tensor, state: AdamState, lr: float) -> tuple[Tensor, AdamState]:
    """The point [P] after a step of gradient descent, and the unchanged state."""
    return point - lr * gradient, state
