"""ResNet-12 and WRN-28-10: learn2learn's networks, adapted to images of any size and to vmap."""

import contextlib
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.replaced_norms import replace_batch_norms
from fewshot_pl.errors import InputError

# Settings of DropBlock, as in Lee et al.'s code, which counts passes of the network where we count training steps.
_MAX_BLOCK = 5  # for 84x84 images; 2 for 32x32
_DROPPED_AT_LAST = 0.1
_STEPS_UNTIL_THEN = 40_000


def resnet12(image_shape: tuple[int, int, int], norm: Norm) -> nn.Module:
    """The residual network of Lee et al. 2019, with DropBlock; images [n, 3, H, W] to features [n, 640].

    Features are means over positions; Lee et al. keep all positions, 16,000 features of 84x84 images.
    """
    channels, height, width = image_shape
    _check_colour(channels, "resnet12")
    last_map = min(height, width) // 16
    block_size = max(1, min(_MAX_BLOCK, last_map))
    network = _learn2learn_models().ResNet12Backbone(dropblock_size=block_size)
    for layer in (network.layer3, network.layer4):
        layer[0].drop_rate = 0  # its own DropBlock counts passes, even of evaluations, and no checkpoint keeps them
        layer.append(DropBlock(block_size))
    layers = network.layer1, network.layer2, network.layer3, network.layer4
    return _pooled(norm, *layers)


def wrn28_10(image_shape: tuple[int, int, int], norm: Norm) -> nn.Module:
    """The wide residual network of Zagoruyko and Komodakis 2016; images [n, 3, H, W] to features [n, 640]."""
    _check_colour(image_shape[0], "wrn28_10")
    network = _learn2learn_models().WRN28Backbone()
    layers = network.conv1, network.layer1, network.layer2, network.layer3, network.bn1, nn.ReLU()
    return _pooled(norm, *layers)


class DropBlock(nn.Module):
    """Zeroes square blocks of each map [n, C, H, W] (Ghiasi et al. 2018) and scales the rest up to keep the mean.

    The dropped share of a map grows linearly with the training steps, up to a tenth (Lee et al. 2019).
    """

    num_training_steps: Tensor

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        steps = torch.tensor(float(_STEPS_UNTIL_THEN))  # training steps done; set where a Trainer trains
        self.register_buffer("num_training_steps", steps, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return maps
        border = self.block_size - 1
        chances = torch.rand_like(maps[..., border:, border:], dtype=torch.float32)  # bfloat16 has only 256 of them
        corners = chances < self.probability(maps.shape[-2], maps.shape[-1])
        padded = F.pad(corners.to(maps.dtype), (border,) * 4)
        kept = 1 - F.max_pool2d(padded, self.block_size, stride=1)
        return maps * kept / kept.mean()

    def probability(self, height: int, width: int) -> Tensor:
        """The probability [] that each possible block of such maps is zeroed (Ghiasi et al. 2018, equation 1)."""
        dropped = _DROPPED_AT_LAST * (self.num_training_steps / _STEPS_UNTIL_THEN).clamp(max=1)
        border = self.block_size - 1
        return dropped / self.block_size**2 * height * width / ((height - border) * (width - border))


def drop_blocks(module: nn.Module) -> list[DropBlock]:
    """Every DropBlock inside ``module``."""
    return [layer for layer in module.modules() if isinstance(layer, DropBlock)]


class _MeanOverPositions(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def _learn2learn_models() -> Any:
    with contextlib.redirect_stderr(io.StringIO()):  # gym's deprecation notice
        from learn2learn.vision import models
    return models


def _check_colour(channels: int, name: str) -> None:
    if channels != 3:
        raise InputError(f"{name} takes colour images: use conv4 for images with {channels} channel")


def _pooled(norm: Norm, *layers: nn.Module) -> nn.Module:
    # learn2learn's pooling windows fit only 84x84 images; there, this is the same.
    network = nn.Sequential(*layers, _MeanOverPositions())
    replace_batch_norms(network, norm)
    return network
