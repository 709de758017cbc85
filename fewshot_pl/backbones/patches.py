"""The moments of the patches of images, from which those of the maps of any convolution of the images follow."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from fewshot_pl.functional.precision import at_least_float32, without_autocast


class PatchMoments(NamedTuple):
    """Of the patches that a convolution of images sees, K = C * k * k values each, in the order of its weights.

    Of maps w * images + b, that is, the mean is w . mean + b and the variance w . covariance w.
    """

    mean: Tensor  # [K]
    covariance: Tensor  # [K, K], of the patches at hand: not unbiased
    num_patches: int


def patch_moments(images: Tensor, kernel_size: int, stride: int, padding: int) -> PatchMoments:
    """The moments of all patches of images, in the images' precision but at least float32.

    Args:
        images: [n, C, H, W], zero beyond their borders.
        kernel_size: k.
        stride: of both directions.
        padding: at each side.
    """
    with without_autocast(images):
        padded = F.pad(at_least_float32(images), [padding] * 4)
        # Products of values far from zero leave no digits for the covariance: centre each channel first.
        centre = padded.mean((0, 2, 3))
        patches = _patches_and_one(padded - centre[:, None, None], kernel_size, stride)
        # Their products in pairs, as the gradient by the weight of a 1x1 convolution: torch's fastest way on a CPU.
        num_values = patches.shape[1]
        shape = num_values, num_values, 1, 1
        products = conv2d_weight(patches, shape, patches)[:, :, 0, 0]  # type: ignore[no-untyped-call]
    num_patches = patches[:, 0].numel()
    mean = products[-1, :-1] / num_patches
    covariance = products[:-1, :-1] / num_patches - mean[:, None] * mean
    return PatchMoments(mean + centre.repeat_interleave(kernel_size**2), covariance, num_patches)


def _patches_and_one(images: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Maps [n, K + 1, h, w]: at each position the patch there, then 1. A convolution lays them out as others want."""
    num_channels = images.shape[1]
    num_values = num_channels * kernel_size**2
    each_value = torch.eye(num_values + 1, num_values, dtype=images.dtype, device=images.device)
    one = torch.zeros_like(each_value[:, 0])
    one[-1] = 1
    return F.conv2d(images, each_value.view(-1, num_channels, kernel_size, kernel_size), one, stride)
