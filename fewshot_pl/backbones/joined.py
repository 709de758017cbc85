"""Batches joined so that autograd takes them apart at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts [n, ...] as one batch, as by ``torch.cat``, however often differentiated.

    Torch takes a gradient apart one by one, and the derivative of each part into zeros as large as the whole, which are
    laid out with the channels outermost. Not for functions under torch.func, which make a Python function of autograd
    slower than all it saves.
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
