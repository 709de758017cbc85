"""From stored bytes to normalised float images, on whatever device they are."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_BLOCK_VALUES = 1 << 18  # 1 MiB of floats


def images_at(images: Tensor, numbers: Tensor) -> Tensor:
    """Copies of the images [n, C, H, W] with the given numbers [...]: [..., C, H, W]."""
    # On a CPU ten times as fast as images[numbers].
    return images.index_select(0, numbers.flatten()).view(*numbers.shape, *images.shape[1:])


def rotated(images: Tensor, quarter_turns: Tensor) -> Tensor:
    """Images [T, N, n, C, H, W] turned counter-clockwise by quarter_turns [T, N] of 0..3; H must equal W."""
    turns = _turned_pixels(images.shape[-1], images.device)
    source = turns[quarter_turns][:, :, None, None].expand(*images.shape[:4], -1)
    return images.flatten(-2).gather(-1, source).view_as(images)


def normalised(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """uint8 images [n, C, H, W] as float: scaled to [0, 1], augmented, minus the mean, divided by the deviation."""
    if augmentation is not None:
        pixels = augmentation(images.float().div_(255))
        return (pixels - _by_channel(mean, pixels.device)) / _by_channel(std, pixels.device)
    if all(m == 0 for m in mean) and all(s == 1 for s in std):
        return images.float().div_(255)
    factors = _by_channel(tuple(1 / (255 * s) for s in std), images.device)
    offsets = _by_channel(tuple(-m / s for m, s in zip(mean, std, strict=True)), images.device)
    pixels = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for stored, block in zip(_blocks(images), _blocks(pixels), strict=True):
        block.copy_(stored).mul_(factors).add_(offsets)
    return pixels


def _blocks(images: Tensor) -> tuple[Tensor, ...]:
    """Images [n, C, H, W] in parts, which on a CPU stay in its cache from one operation to the next."""
    num_values = images[0].numel() if len(images) and images.device.type == "cpu" else 0
    return torch.split(images, max(_BLOCK_VALUES // num_values, 1)) if num_values else (images,)


@lru_cache
def _turned_pixels(side: int, device: torch.device) -> Tensor:
    """The source pixel of each place in each of 4 quarter turns, [4, H*W]; cached, as making it takes many calls."""
    with torch.inference_mode(False):  # a validation may be the first to ask, a training the next
        grid = torch.arange(side * side, device=device).view(side, side)
        return torch.stack([torch.rot90(grid, turn).flatten() for turn in range(4)])


@lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values for each channel, [C, 1, 1]; cached, as sending them to a GPU makes it wait."""
    with torch.inference_mode(False):  # a validation may be the first to ask, a training the next
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
