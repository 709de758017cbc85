"""Gradient descent on a task, as a differentiable function of the starting point."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fewshot_pl.functional.recomputed import recomputed

Parameters = dict[str, Tensor]


def adapted_parameters(
    loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    inner_lr: float,
    num_steps: int,
    first_order: bool = False,
    *,
    data: tuple[Tensor, ...] = (),
    recompute: bool = False,
    plain: bool = False,
) -> Parameters:
    """The parameters after ``num_steps`` of gradient descent on ``loss`` (Finn et al. 2017, equation 1).

    The result is differentiable with respect to ``parameters``; with ``first_order`` every inner gradient counts
    as a constant. ``torch.func.grad`` takes the gradients, so this also works under its transforms, and where autograd
    is off, as in Lightning's validation and test.

    Args:
        loss: of the parameters and ``data``.
        parameters: where to start.
        inner_lr: of the descent.
        num_steps: of the descent.
        first_order: see above.
        data: what ``loss`` takes after the parameters; with ``recompute`` it must hold all tensors it depends on.
        recompute: keep only the parameters of each step for the backward pass, and make the step again there.
        plain: let autograd take the gradients, which is faster where it can: it is on, and nothing is transformed.
    """
    names = list(parameters)

    def gradients_at(values: Sequence[Tensor], data: tuple[Tensor, ...]) -> Sequence[Tensor]:
        point = dict(zip(names, values, strict=True))
        if not plain:
            gradients: Parameters = torch.func.grad(loss)(point, *data)
            return list(gradients.values())
        for value in values if first_order else ():
            value.requires_grad_()
        return torch.autograd.grad(loss(point, *data), values, create_graph=not first_order, materialize_grads=True)

    def stepped(*inputs: Tensor) -> tuple[Tensor, ...]:
        values, data = inputs[: len(names)], inputs[len(names) :]
        point = [value.detach() for value in values] if first_order else values
        gradients = gradients_at(point, data)
        return tuple(value - inner_lr * gradient for value, gradient in zip(values, gradients, strict=True))

    values = tuple(parameters.values())
    for _ in range(num_steps):
        values = recomputed(stepped, *values, *data) if recompute else stepped(*values, *data)
    return dict(zip(names, values, strict=True))
