"""Conv4: the four-block convolutional networks of the few-shot papers."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.conv_block import ConvBlock
from fewshot_pl.backbones.normalization import Norm

# Limits on tasks side by side and images of each: this saves calls, but grouped convolutions of large maps are slower.
_MOST_SIDE_BY_SIDE = 8
_FEW_IMAGES = 25


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation, ReLU and halving; images [n, C, H, W] to features [n, D].

    Vinyals et al. 2016, section 4.1 (pooled); Finn et al. 2017, section 5.2 (strided: stride 2 in place of pooling,
    and the mean over positions at the end, as in the authors' code); Nichol et al. 2018 (strided, without the mean).
    Convolutions are padded by one pixel on every side; with a stride, the authors' code pads maps of even size only
    below and to the right, which shifts the positions by a pixel.

    Args:
        in_channels: C.
        norm: where the normalisation takes its statistics from.
        num_channels: channels of each block, 64 or 32 in the papers.
        strided: halve by stride instead of max-pooling.
        flat: use all positions of the last maps as features, not their mean; the default unless strided.
        signed: leave out the last block's ReLU, so features take both signs.
    """

    def __init__(
        self,
        in_channels: int,
        norm: Norm,
        num_channels: int = 64,
        strided: bool = False,
        flat: bool | None = None,
        signed: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[num_channels] * 4]
        blocks = [ConvBlock(*width, norm, stride=1 + strided, pool=not strided) for width in pairwise(widths)]
        if signed:
            del blocks[-1].relu
        self.blocks = nn.Sequential(*blocks)
        self.flat = not strided if flat is None else flat

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(_channel_innermost(images))
        return torch.flatten(maps, 1) if self.flat else maps.mean((2, 3))

    @property
    def passes_side_by_side(self) -> bool:
        """See ``Learner``: tasks are groups of channels, which norms across channels would mix.

        Norms that observe statistics do so for a single task.
        """
        return getattr(self._first.norm, "mode", None) in ("transductive", "support")

    def num_side_by_side(self, images: Tensor, num_threads: int | None = None) -> int:
        """See ``Learner``."""
        if not self.passes_side_by_side or len(images) > _FEW_IMAGES:
            return 1
        return max(1, min(_MOST_SIDE_BY_SIDE, self._first.num_cached(images, num_threads) // max(1, len(images))))

    @property
    def _first(self) -> ConvBlock:
        first = self.blocks[0]
        assert isinstance(first, ConvBlock)
        return first


class Conv4Maps(nn.Module):
    """The encoder of Relation Networks (Sung et al. 2018, section 3.4): Conv4 whose last two blocks do not halve.

    Images [n, C, H, W] to maps of 64 channels, flattened to features [n, D]; ``map_shape`` is the shape of the maps.
    For the paper's image sizes, 28x28 and 84x84, blocks 1 and 2 do not pad (maps of 5x5 and 19x19, as in the authors'
    code); for other sizes they pad by 1, so no part of a small image is lost (32x32: 8x8).
    """

    def __init__(self, image_shape: tuple[int, int, int], norm: Norm, num_channels: int = 64) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        padding = 0 if (height, width) in ((28, 28), (84, 84)) else 1
        self.blocks = nn.Sequential(
            ConvBlock(in_channels, num_channels, norm, padding=padding),
            ConvBlock(num_channels, num_channels, norm, padding=padding),
            ConvBlock(num_channels, num_channels, norm, pool=False),
            ConvBlock(num_channels, num_channels, norm, pool=False),
        )
        lost = 2 * (1 - padding)  # per convolution, in each direction
        self.map_shape = (num_channels, *(((size - lost) // 2 - lost) // 2 for size in (height, width)))

    def forward(self, images: Tensor) -> Tensor:
        return torch.flatten(self.blocks(_channel_innermost(images)), 1)


def _channel_innermost(images: Tensor) -> Tensor:
    """The same images; on a CPU, channels are innermost in memory, and so in all maps computed from them."""
    if images.device.type != "cpu":
        return images
    if images.shape[1] == 1:  # both layouts are the same in memory, and torch goes by strides
        return images[:, 0].unsqueeze(-1).movedim(-1, 1)
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels_last, which vmap does not support
