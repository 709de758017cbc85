"""A loss whose gradient was taken before the backward pass."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# For some tasks: the loss [] and any other outputs of each, all detached; and the gradients of the sum of the losses
# with respect to the parameters, None for a parameter that they do not depend on.
TaskGradients = tuple[Sequence[tuple[Tensor, ...]], Sequence[Tensor | None]]


def with_known_gradient(loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """The loss as a function of the parameters whose gradients are the given ones; its own graph is dropped.

    Args:
        loss: a scalar.
        parameters: what the loss depends on.
        gradients: of the loss with respect to each parameter; None for one that it does not depend on.
    """
    value: Tensor = _KnownGradient.apply(gradients, loss.detach(), *parameters)  # type: ignore[no-untyped-call]
    return value


def mean_with_known_gradient(parameters: Sequence[Tensor], found: Iterable[TaskGradients]) -> tuple[Tensor, ...]:
    """The mean loss [] of T tasks with a known gradient, and the other outputs of the tasks, stacked to [T, ...].

    Args:
        parameters: what the losses depend on.
        found: the results of one or several tasks at a time.
    """
    tasks: list[tuple[Tensor, ...]] = []
    sums: list[Tensor | None] = [None] * len(parameters)
    for of_some, gradients in found:
        tasks += of_some
        sums = [_sum(total, gradient) for total, gradient in zip(sums, gradients, strict=True)]
    means = _of_each(torch._foreach_div, sums, len(tasks))
    losses, *others = (torch.stack(values) for values in zip(*tasks, strict=True))
    return with_known_gradient(losses.mean(), parameters, means), *others


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total + more


def _of_each(
    function: Callable[..., Sequence[Tensor]], values: Sequence[Tensor | None], number: Any
) -> list[Tensor | None]:
    """The results of one call of ``function`` on all values that are not None and a number; None stays None."""
    found = iter(function(there, number) if (there := [value for value in values if value is not None]) else ())
    return [None if value is None else next(found) for value in values]


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor | None], loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_of_each(torch._foreach_mul, ctx.gradients, of_loss)
