"""patch_moments against the patches themselves."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.backbones.patches import patch_moments

SIZES = pytest.mark.parametrize(
    ("num_channels", "kernel_size", "stride", "padding"), [(3, 3, 1, 1), (1, 3, 2, 1), (2, 3, 1, 0), (2, 5, 3, 2)]
)


def random_images(num_channels, mean=0.0):
    torch.manual_seed(0)
    images = torch.randn(4, num_channels, 9, 8, dtype=torch.float64).cumsum(3)  # neighbours resemble each other
    return images + mean * torch.arange(1, num_channels + 1)[:, None, None]


def moments_of_unfolded(images, kernel_size, stride, padding):
    patches = F.unfold(images.double(), kernel_size, stride=stride, padding=padding).transpose(0, 1).flatten(1)
    return patches.mean(1), torch.cov(patches, correction=0), patches.shape[1]


@SIZES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_they_are_the_moments_of_the_unfolded_images(num_channels, kernel_size, stride, padding, layout):
    images, sizes = random_images(num_channels).contiguous(memory_format=layout), (kernel_size, stride, padding)
    actual, expected = patch_moments(images, *sizes), moments_of_unfolded(images, *sizes)
    torch.testing.assert_close(tuple(actual), expected, rtol=1e-12, atol=1e-12)


def test_images_far_from_zero_keep_their_digits():
    images = random_images(3, mean=1000).float()
    actual, expected = patch_moments(images, 3, 1, 0), moments_of_unfolded(images, 3, 1, 0)
    torch.testing.assert_close(actual.mean.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(actual.covariance.double(), expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_half_precision_is_not_for_them(given):
    images = random_images(2).to(given)
    with torch.autocast("cpu", torch.bfloat16):
        actual = patch_moments(images, 3, 1, 1)
    expected = moments_of_unfolded(images, 3, 1, 1)
    assert actual.mean.dtype == actual.covariance.dtype == torch.float32
    torch.testing.assert_close(actual.mean.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.covariance.double(), expected[1], rtol=1e-5, atol=1e-5)
