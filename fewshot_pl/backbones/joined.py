"""Concatenation of batches whose gradient autograd splits in one operation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts [n, ...] as one batch, like ``torch.cat``, differentiable any number of times.

    Torch splits the gradient of ``torch.cat`` part by part, and puts the derivative of each part into zeros as large as
    the whole batch, laid out with the channels outermost. Not for use under torch.func, where a Python autograd
    function costs more time than it saves.
    """
    batch: Tensor = _Joined.apply(*parts)  # type: ignore[no-untyped-call]
    return batch


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.sizes = [len(part) for part in parts]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, of_batch: Tensor) -> tuple[Tensor, ...]:
        return torch.split(of_batch, ctx.sizes)
