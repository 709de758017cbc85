"""A loss whose gradient was taken before the backward pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def with_known_gradient(loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """The loss as a function of the parameters, whose gradient is the given one; the way to it is forgotten.

    Args:
        loss: a scalar.
        parameters: what the loss depends on.
        gradients: of the loss by each of the parameters; None where it does not depend on one.
    """
    value: Tensor = _KnownGradient.apply(gradients, loss.detach(), *parameters)  # type: ignore[no-untyped-call]
    return value


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor | None], loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if gradient is None else of_loss * gradient for gradient in ctx.gradients)
        return None, None, *gradients
