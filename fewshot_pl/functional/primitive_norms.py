"""Torch's normalisation by statistics of its input, written out for second derivatives under vmap."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class PrimitiveNorms(TorchFunctionMode):
    """Within, layer, instance and batch norm are computed from means and variances.

    Under vmap, second derivatives of torch's own are wrong, without a warning (functorch#534).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call: Callable[..., Any] = _WRITTEN_OUT.get(func, func)
        return call(*args, **(kwargs or {}))


@contextmanager
def right_second_derivatives(*, transformed: bool) -> Iterator[None]:
    """Within, operations whose second derivatives torch lacks, or gets wrong under vmap, are written out.

    These are fused attention and, if a pass may be ``transformed`` by vmap, norms.
    """
    with sdpa_kernel(SDPBackend.MATH), PrimitiveNorms() if transformed else nullcontext():
        yield


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """``F.layer_norm``, and ``torch.layer_norm``."""
    normed = _standardised(input, range(-len(normalized_shape), 0), eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.instance_norm``; torch's own where running statistics are used or updated."""
    if running_mean is not None:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _scaled(_standardised(input, range(2, input.ndim), eps), weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm``; torch's own where running statistics are used or updated."""
    if running_mean is not None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _scaled(_standardised(input, (0, *range(2, input.ndim)), eps), weight, bias)


def _standardised(values: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    """The values minus their mean, over their standard deviation, both over ``dims``."""
    var, mean = torch.var_mean(values, tuple(dims), correction=0, keepdim=True)
    return (values - mean) * (var + eps).rsqrt()


def _scaled(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The values [n, C, ...] times the weight [C], plus the bias [C]."""
    shape = -1, *[1] * (values.ndim - 2)
    values = values if weight is None else values * weight.view(shape)
    return values if bias is None else values + bias.view(shape)


_WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.instance_norm: instance_norm,
    F.batch_norm: batch_norm,
}
