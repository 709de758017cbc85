"""Networks that generate images for a task: an encoder of its support, and a generator from noise and that code."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewshot_pl.backbones.learner import initialise_xavier

ImageRange = tuple[tuple[float, ...], tuple[float, ...]]  # lowest and highest value per channel, or for all channels
_SLOPE = 0.2  # of LeakyReLU below zero


class TaskEncoder(nn.Module):
    """Support images [n, C, H, W] to the code [D] of their task, the mean of the codes of the images.

    So the code depends on neither the order of the images nor their labels. Six 3x3 convolutions to w, w, 2w, 2w, 4w
    and 4w channels, every second of which halves the size, and a linear layer to D = 4w; no normalisation.

    Args:
        image_shape: (C, H, W).
        width: w.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int = 64) -> None:
        super().__init__()
        in_channels, height, width_of_image = image_shape
        channels = [in_channels, width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        layers = [nn.Conv2d(*pair, 3, stride=1 + i % 2, padding=1) for i, pair in enumerate(pairwise(channels))]
        self.convolutions = nn.ModuleList(layers)
        for _ in range(3):
            height, width_of_image = _half(height), _half(width_of_image)
        self.linear = nn.Linear(4 * width * height * width_of_image, 4 * width)
        initialise_xavier(self)

    def forward(self, support_x: Tensor) -> Tensor:
        maps = support_x
        for convolution in self.convolutions:
            maps = F.leaky_relu(convolution(maps), _SLOPE)
        code: Tensor = self.linear(maps.flatten(1)).mean(0)
        return code


class Generator(nn.Module):
    """Noise [n, Z] and the code [D] of a task to images [n, C, H, W] with values in ``image_range``.

    A linear layer to 4w maps of a quarter of the size; two upsamplings to double size, with 5x5 convolutions to 2w and
    w channels; a last one to C, and tanh, scaled from -1..1 to the range of real images. No normalisation.

    Args:
        image_shape: (C, H, W).
        image_range: lowest and highest values of real images, per channel.
        num_noise: Z.
        num_code: D.
        width: w.
    """

    middle: Tensor  # [C, 1, 1], or one value for all channels
    half_range: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        image_range: ImageRange,
        num_noise: int,
        num_code: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        out_channels, *size = image_shape
        half = [_half(side) for side in size]
        quarter = [_half(side) for side in half]
        self.sizes = (half, size)
        self.first_shape = (4 * width, *quarter)
        self.linear = nn.Linear(num_noise + num_code, 4 * width * quarter[0] * quarter[1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*pair, 5, padding=2) for pair in pairwise([4 * width, 2 * width, width])
        )
        self.last = nn.Conv2d(width, out_channels, 5, padding=2)
        initialise_xavier(self)  # torch's default would start with images that hardly depend on the noise
        low, high = torch.tensor(image_range)[..., None, None]
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)

    def forward(self, noise: Tensor, code: Tensor) -> Tensor:
        inputs = torch.cat([noise, code.expand(len(noise), -1)], 1)
        maps = F.leaky_relu(self.linear(inputs), _SLOPE).view(-1, *self.first_shape)
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            maps = F.leaky_relu(convolution(F.interpolate(maps, size)), _SLOPE)
        images: Tensor = self.middle + self.half_range * self.last(maps).tanh()
        return images


def _half(side: int) -> int:
    return -(-side // 2)
