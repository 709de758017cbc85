"""From stored bytes to normalised float images, on whatever device they are."""

from collections.abc import Callable, Sequence

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
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """uint8 images [n, C, H, W] as float: scaled to [0, 1], augmented, less the mean, over the deviation."""
    pixels = images.float() / 255
    if augmentation is not None:
        pixels = augmentation(pixels)
    if all(m == 0 for m in mean) and all(s == 1 for s in std):
        return pixels
    return (pixels - pixels.new_tensor(mean).view(-1, 1, 1)) / pixels.new_tensor(std).view(-1, 1, 1)


def class_major_labels(images: Tensor) -> Tensor:
    """The labels [T, N*n] of images [T, N, n, ...]: 0 n times, 1 n times, ..."""
    num_tasks, num_ways, per_class = images.shape[:3]
    labels = torch.arange(num_ways, device=images.device).repeat_interleave(per_class)
    return labels.expand(num_tasks, -1)
