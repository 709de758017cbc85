"""SplitFeatures: every image of a split embedded once, so that episodes can hold features instead of images."""

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 128  # images embedded together; always the same, so that features depend on no other setting


class SplitFeatures:
    """The features of a split's images in each of R quarter turns, looked up by image number and turn.

    Args:
        images: uint8 [num_images, C, H, W], as stored.
        num_rotations: R.
        pixels: stored images [1, R, n, C, H, W] and turns [1, R] to images as the network sees them, [1, R*n, C, H, W].
        encode: images [n, C, H, W] to features [n, D].
        device: where to embed them and keep their features.
    """

    def __init__(
        self,
        images: Tensor,
        num_rotations: int,
        pixels: Callable[[Tensor, Tensor], Tensor],
        encode: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        turns = torch.arange(num_rotations, device=device)[None]

        def embedded(block: Tensor) -> Tensor:
            every_turn = block.to(device).expand(1, num_rotations, *block.shape)
            return encode(pixels(turns, every_turn)[0]).view(num_rotations, len(block), -1).transpose(0, 1)

        blocks = torch.split(images, _AT_ONCE)
        self._features = torch.cat([embedded(block) for block in blocks])  # [num_images, R, D]

    def at(self, numbers: Tensor, quarter_turns: Tensor) -> Tensor:
        """The features [T, N*n, D] of the images with numbers [T, N, n], in the turns [T, N] of their classes."""
        return self._features[numbers, quarter_turns[..., None]].flatten(1, 2)
