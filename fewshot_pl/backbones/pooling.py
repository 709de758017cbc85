"""Max-pooling whose second derivatives have the same memory layout as its maps."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SIZE = [2, 2]


class MaxPool(nn.Module):
    """2x2 max-pooling that can be told it will be differentiated twice; leftover rows and columns are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.twice_differentiated = False  # by autograd, not torch.func; set by second_order_pass()

    def forward(self, maps: Tensor) -> Tensor:
        return max_pool(maps) if self.twice_differentiated else F.max_pool2d(maps, 2)


def max_pool(maps: Tensor) -> Tensor:
    """Maps [n, C, H, W] to [n, C, H // 2, W // 2] like ``F.max_pool2d``, and twice differentiable.

    Torch lays out its second derivative with the channels outermost, and returns zeros as the derivative w.r.t. the
    maps. Everything computed from them then changes its layout, which takes several times as long. Not for use under
    torch.func, where a Python autograd function costs more time than it saves.
    """
    pooled: Tensor = _MaxPool.apply(maps)  # type: ignore[no-untyped-call]
    return pooled


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        pooled, places = F.max_pool2d_with_indices(maps, _SIZE)
        ctx.save_for_backward(maps, places)
        return pooled

    @staticmethod
    def backward(ctx: Any, of_pooled: Tensor) -> Tensor:
        of_maps: Tensor = _MaxPoolBackward.apply(of_pooled, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return of_maps


class _MaxPoolBackward(torch.autograd.Function):
    """Puts each value at the place of its maximum, among zeros; so its derivative is the value at that place."""

    @staticmethod
    def forward(ctx: Any, of_pooled: Tensor, maps: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        of_maps: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            of_pooled, maps, _SIZE, _SIZE, [0, 0], [1, 1], False, places
        )
        return of_maps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        found = u.flatten(2).gather(2, places.flatten(2)).view(places.shape)
        return torch.empty_like(places, dtype=u.dtype).copy_(found), None, None
