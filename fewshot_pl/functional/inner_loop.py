"""Gradient descent on a task, as a differentiable function of the starting point."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def adapted_parameters(
    loss: Callable[[Parameters], Tensor],
    parameters: Mapping[str, Tensor],
    inner_lr: float,
    num_steps: int,
    first_order: bool = False,
) -> Parameters:
    """The parameters after ``num_steps`` of gradient descent on ``loss`` (Finn et al. 2017, equation 1).

    The result is differentiable with respect to ``parameters``; with ``first_order`` every inner gradient counts
    as a constant. ``torch.func.grad`` takes the gradients, so this also works where autograd is off, as in
    Lightning's validation and test.
    """
    adapted = dict(parameters)
    for _ in range(num_steps):
        point = {name: value.detach() for name, value in adapted.items()} if first_order else adapted
        gradients = torch.func.grad(loss)(point)
        adapted = {name: value - inner_lr * gradients[name] for name, value in adapted.items()}
    return adapted
