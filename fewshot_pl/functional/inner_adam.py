"""Adam without momentum, and plain gradient descent, as pure steps on a vector of parameters."""

from typing import NamedTuple

import torch
from torch import Tensor


class AdamState(NamedTuple):
    """The state of Adam with beta1 = 0 between steps; the mean of several states is one too."""

    total_weight: Tensor  # [] 1 - beta2^t after t steps: the sum of the weights of the squared gradients in
    second_moment: Tensor  # [P] their running mean, biased towards its start at 0


class MeanState:
    """The mean of Adam's states after several tasks, all of the same number of steps from one state."""

    def __init__(self) -> None:
        self.state: AdamState | None = None
        self._num_tasks = 0

    def add(self, total_weight: Tensor, second_moments: Tensor) -> None:
        """Add the states after T tasks: the total weight, the same for all, and second moments [T, P]."""
        moment = second_moments.mean(0)
        self._num_tasks += len(second_moments)
        if self.state is not None:
            moment = self.state.second_moment.lerp(moment, len(second_moments) / self._num_tasks)
        self.state = AdamState(total_weight, moment)


def adam_step(
    point: Tensor, gradient: Tensor, state: AdamState, lr: float, beta2: float = 0.999, eps: float = 1e-8
) -> tuple[Tensor, AdamState]:
    """The point [P] after a step of Adam (Kingma and Ba 2015, algorithm 1) with beta1 = 0, and Adam's new state.

    As ``torch.optim.Adam(betas=(0, beta2))``: the step is lr * g / (sqrt(v / (1 - beta2^t)) + eps).
    """
    # Summed as the squares are, so that means of both belong together; 1 - beta2^t would lose digits in float32.
    total_weight = beta2 * state.total_weight + (1 - beta2)
    second_moment = torch.addcmul(beta2 * state.second_moment, gradient, gradient, value=1 - beta2)
    scale = (second_moment / total_weight).sqrt() + eps
    return torch.addcdiv(point, gradient, scale, value=-lr), AdamState(total_weight, second_moment)


def sgd_step(point: Tensor, gradient: Tensor, state: AdamState, lr: float) -> tuple[Tensor, AdamState]:
    """The point [P] after a step of gradient descent, and the unchanged state."""
    return point - lr * gradient, state
