"""From stored bytes to normalised float images, on whatever device they are."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def rotated(images: Tensor, quarter_turns: Tensor) -> Tensor:
    """Images [T, N, n, C, H, W] turned counter-clockwise by quarter_turns [T, N] of 0..3; H must equal W."""
    side = images.shape[-1]
    grid = torch.arange(side * side, device=images.device).view(side, side)
    turns = torch.stack([torch.rot90(grid, turn).flatten() for turn in range(4)])  # [4, H*W] source pixels
    source = turns[quarter_turns][:, :, None, None].expand(*images.shape[:4], -1)
    return images.flatten(-2).gather(-1, source).view_as(images)


def normalised(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """uint8 images [n, C, H, W] as float: scaled to [0, 1], augmented, less the mean, over the deviation."""
    pixels = images.float()
    if augmentation is not None:
        pixels = augmentation(pixels.div_(255))
        return (pixels - _by_channel(mean, pixels.device)) / _by_channel(std, pixels.device)
    if all(m == 0 for m in mean) and all(s == 1 for s in std):
        return pixels.div_(255)
    factors = tuple(1 / (255 * s) for s in std)
    offsets = tuple(-m / s for m, s in zip(mean, std, strict=True))
    # In place, for this is most of the time that episodes of images take.
    return pixels.mul_(_by_channel(factors, pixels.device)).add_(_by_channel(offsets, pixels.device))


@lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values for each channel, [C, 1, 1]; kept, as to send them to a GPU makes it wait."""
    with torch.inference_mode(False):  # a validation may be the first to ask, a training the next
        return torch.tensor(values, device=device).view(-1, 1, 1)


def class_major_labels(images: Tensor) -> Tensor:
    """The labels [T, N*n] of images [T, N, n, ...]: 0 n times, 1 n times, ..."""
    num_tasks, num_ways, per_class = images.shape[:3]
    labels = torch.arange(num_ways, device=images.device).repeat_interleave(per_class)
    return labels.expand(num_tasks, -1)
