"""Conv4: the four-block convolutional network of the few-shot papers."""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.normalization import Norm, norm_layer


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation, ReLU and halving; images [n, C, H, W] to features [n, D].

    Vinyals et al. 2016, section 4.1 (pooled); Finn et al. 2017, section 5.2 (strided: stride 2 in place of pooling,
    and the mean over positions at the end, as in the authors' code); Nichol et al. 2018 (strided, without the mean).

    Args:
        in_channels: C.
        norm: where the normalisation takes its statistics from.
        num_channels: of each block, 64 or 32 in the papers.
        strided: halve by stride rather than by max-pooling.
        flat: the features are all positions of the last maps rather than their mean; default unless strided.
    """

    def __init__(
        self,
        in_channels: int,
        norm: Norm,
        num_channels: int = 64,
        strided: bool = False,
        flat: bool | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[num_channels] * 4]
        self.blocks = nn.Sequential(*(_block(before, after, norm, strided) for before, after in pairwise(widths)))
        self.flat = not strided if flat is None else flat

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(images)
        return torch.flatten(maps, 1) if self.flat else maps.mean((2, 3))


def _block(before: int, after: int, norm: Norm, strided: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(before, after, kernel_size=3, stride=2 if strided else 1, padding=1)
    layers["norm"] = norm_layer(norm, after)
    if not strided:
        layers["pool"] = nn.MaxPool2d(2)
    layers["relu"] = nn.ReLU()  # after pooling: max and ReLU commute, and this is a quarter of the work
    return nn.Sequential(layers)
