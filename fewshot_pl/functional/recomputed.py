"""Functions recomputed in the backward pass instead of keeping their intermediate results."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def recomputed(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The outputs ``function(*inputs)``, with only the inputs kept for the backward pass (Chen et al. 2016).

    Unlike ``torch.utils.checkpoint`` this takes functions that use torch.func, and works under vmap. It can be
    differentiated only once.

    Args:
        function: from tensors alone to tensors. All tensors that need a gradient must be among its inputs, and it must
            give the same result again: no random numbers.
        inputs: of the function; integer tensors get no gradient.
    """
    outputs: tuple[Tensor, ...] = _Recomputed.apply(function, *inputs)  # type: ignore[no-untyped-call]
    return outputs


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return function(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = list(ctx.saved_tensors)
        wanted = [index for index in range(len(inputs)) if ctx.needs_input_grad[index + 1]]

        def of_wanted(*values: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(wanted, values, strict=True))
            outputs: tuple[Tensor, ...] = ctx.function(*(given.get(i, value) for i, value in enumerate(inputs)))
            return outputs

        pull_back: Callable[..., tuple[Tensor, ...]]
        _, pull_back, *_ = torch.func.vjp(of_wanted, *(inputs[index] for index in wanted))
        of_inputs = dict(zip(wanted, pull_back(gradients), strict=True))
        return None, *(of_inputs.get(index) for index in range(len(inputs)))
