"""The moments of image patches, from which the moments of any convolution of the images follow."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from fewshot_pl.functional.precision import at_least_float32, without_autocast


class PatchMoments(NamedTuple):
    """The moments of the patches that a convolution sees, K = C * k * k values each, in the order of its weights.

    The mean of maps w * images + b is then w . mean + b, and their variance is w . covariance w.
    """

    mean: Tensor  # [K]
    covariance: Tensor  # [K, K], of the patches at hand: biased
    num_patches: int


def patch_moments(images: Tensor, kernel_size: int, stride: int, padding: int) -> PatchMoments:
    """The moments of all patches of images, in the images' precision but at least float32.

    Args:
        images: [n, C, H, W], padded with zeros.
        kernel_size: k.
        stride: in both directions.
        padding: at each side.
    """
    with without_autocast(images):
        padded = F.pad(at_least_float32(images), [padding] * 4)
        # Products of values far from zero leave no digits for the covariance: centre each channel first.
        centre = padded.mean((0, 2, 3))
        patches = _patches_and_one(padded - centre[:, None, None], kernel_size, stride)
        # Their pairwise products, as the weight gradient of a 1x1 convolution: torch's fastest way on a CPU.
        num_values = patches.shape[1]
        shape = num_values, num_values, 1, 1
        products = conv2d_weight(patches, shape, patches)[:, :, 0, 0]  # type: ignore[no-untyped-call]
    num_patches = patches[:, 0].numel()
    mean = products[-1, :-1] / num_patches
    covariance = products[:-1, :-1] / num_patches - mean[:, None] * mean
    return PatchMoments(mean + centre.repeat_interleave(kernel_size**2), covariance, num_patches)


def _patches_and_one(images: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Maps [n, K + 1, h, w] of the patch at each position, then 1; a convolution gives them the layout others want."""
    num_channels = images.shape[1]
    num_values = num_channels * kernel_size**2
    each_value = torch.eye(num_values + 1, num_values, dtype=images.dtype, device=images.device)
    one = torch.zeros_like(each_value[:, 0])
    one[-1] = 1
    return F.conv2d(images, each_value.view(-1, num_channels, kernel_size, kernel_size), one, stride)
