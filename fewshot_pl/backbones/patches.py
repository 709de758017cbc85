"""The moments of image patches, from which the moments of any convolution of the images follow."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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
        padded = F.pad(at_least_float32(images).contiguous(), [padding] * 4)
        # Products of values far from zero leave no digits for the covariance: centre each channel first.
        centre = padded.mean((0, 2, 3))
        patches = _patches_and_one(padded - centre[:, None, None], kernel_size, stride)
        products = torch.bmm(patches, patches.transpose(1, 2)).sum(0)
    num_patches = len(patches) * patches.shape[2]
    mean = products[-1, :-1] / num_patches
    covariance = products[:-1, :-1] / num_patches - mean[:, None] * mean
    return PatchMoments(mean + centre.repeat_interleave(kernel_size**2), covariance, num_patches)


def _patches_and_one(images: Tensor, kernel_size: int, stride: int) -> Tensor:
    """The patch at each of L positions, then 1: [n, K + 1, L]."""
    patches = images.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride)  # [n, C, h, w, k, k]
    patches = patches.permute(0, 1, 4, 5, 2, 3)
    values = images.new_ones(len(images), patches.shape[1:4].numel() + 1, *patches.shape[4:])
    values[:, :-1].view(patches.shape).copy_(patches)
    return values.flatten(2)
