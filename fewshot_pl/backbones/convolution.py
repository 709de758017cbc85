"""Convolution whose second derivatives are gradients of convolutions, and as fast."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Convolution(nn.Conv2d):
    """A convolution without dilation, or groups other than tasks, that can be told it will be differentiated twice."""

    def __init__(self, before: int, after: int, kernel_size: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(before, after, kernel_size, stride=stride, padding=padding)
        self.twice_differentiated = False  # by autograd, not torch.func; set by second_order_pass()

    @property
    def num_tasks(self) -> int:
        """The number of tasks whose parameters are held side by side (see ``Learner``)."""
        return len(self.weight) // self.out_channels

    def forward(self, maps: Tensor) -> Tensor:
        assert self.bias is not None
        return self.convolve(maps, self.weight, self.bias)

    def convolve(self, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Maps convolved with a weight and bias in place of the layer's own."""
        if self.twice_differentiated:
            return convolution(maps, weight, bias, self.stride[0], int(self.padding[0]), self.num_tasks)
        return F.conv2d(maps, weight, bias, self.stride, self.padding, groups=self.num_tasks)


def convolution(maps: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
    """Maps [n, B, H, W] convolved as by ``F.conv2d``, twice differentiable.

    Torch differentiates a weight's gradient as a convolution with a kernel as large as the maps, also with respect to
    images that need no gradient. Computing it as what it is, the gradient of a convolution, is several times faster.
    Not for use under torch.func, where a Python autograd function costs more time than it saves.

    Args:
        maps: [n, B, H, W].
        weight: [A, B / groups, k, k].
        bias: [A].
        stride: in both directions.
        padding: at each side.
        groups: of channels, each convolved by itself.
    """
    geometry = _Geometry(stride, padding, groups)
    convolved: Tensor = _Convolution.apply(maps, weight, bias, geometry)  # type: ignore[no-untyped-call]
    return convolved


class _Geometry(NamedTuple):
    stride: int
    padding: int
    groups: int

    def convolved(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(maps, weight, bias, self.stride, self.padding, groups=self.groups)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.geometry = geometry
        return geometry.convolved(maps, weight, bias)

    @staticmethod
    def backward(ctx: Any, of_convolved: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], True, True
        gradients = _ConvolutionBackward.apply(of_convolved, maps, weight, ctx.geometry, wanted)  # type: ignore[no-untyped-call]
        return *gradients, None


class _ConvolutionBackward(torch.autograd.Function):
    """The gradients of y = w * x + b w.r.t. x, w and b: v with w flipped, v with x, and the sum of v, y's gradient.

    Each is linear in v, and in w or x. So if u is the gradient of these three, that of v is u_x * w + x * u_w + u_b,
    and those of x and w are the first two again, with u_w in place of w and u_x in place of x.
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(v, x, weight)
        ctx.geometry = geometry
        return _gradients(v, x, weight, geometry, wanted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u_x: Tensor | None, u_weight: Tensor, u_bias: Tensor) -> tuple[Tensor | None, ...]:
        v, x, weight = ctx.saved_tensors
        of_v = ctx.geometry.convolved(x, u_weight, u_bias)
        of_x = of_weight = None
        if u_x is not None:
            of_v += ctx.geometry.convolved(u_x, weight, None)
            _, of_weight, _ = _gradients(v, u_x, weight, ctx.geometry, (False, True, False))
        if ctx.needs_input_grad[1]:
            of_x, _, _ = _gradients(v, x, u_weight, ctx.geometry, (True, False, False))
        return of_v, of_x, of_weight, None, None


def _gradients(
    v: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """The gradients with respect to maps, weight and bias, each None unless wanted."""
    stride, padding, groups = geometry
    gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        v, x, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, wanted
    )
    return gradients
