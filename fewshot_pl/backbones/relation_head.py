"""RelationHead: a network that compares feature maps (Sung et al. 2018)."""

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.build import num_features
from fewshot_pl.backbones.conv_block import ConvBlock
from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.passes import support_rows
from fewshot_pl.errors import InputError


class RelationHead(nn.Module):
    """Pairs of maps [n, 2*C, h, w] to logits [n] (section 3.4, figure 3; the sigmoid is left to the loss).

    Args:
        map_shape: (C, h, w) of one image's map.
        norm: where batch norm takes its statistics from.
    """

    def __init__(self, map_shape: tuple[int, ...], norm: Norm) -> None:
        super().__init__()
        num_channels, height, width = map_shape
        if min(height, width) < 4:
            raise InputError("images must be at least 16x16 for RelationNet: use a larger --data.image_size")
        # As in the authors' code for 84x84 images (maps of 19x19) and 28x28 images (maps of 5x5).
        padding = 0 if min(height, width) >= 10 else 1
        self.map_shape = map_shape
        self.norm = norm
        self.blocks = nn.Sequential(
            ConvBlock(2 * num_channels, num_channels, norm, padding=padding),
            ConvBlock(num_channels, num_channels, norm, padding=padding),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(num_features(self.blocks, (2 * num_channels, height, width)), 8)
        self.score = nn.Linear(8, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        logits: Tensor = self.score(self.hidden(self.blocks(pairs)).relu())
        return logits.squeeze(-1)

    def query_logits(self, classes: Tensor, support_f: Tensor, query_f: Tensor) -> Tensor:
        """The logits [n, N] of queries [n, D], compared with classes [N, D].

        Batch norm sees all pairs of classes and queries together; with norm ``support`` its statistics come from the
        pairs of classes and support images [N*K, D].
        """
        if self.norm != "support":
            return self.pair_logits(classes, query_f)
        num_support = len(support_f)
        with support_rows(self, num_support * len(classes)):
            return self.pair_logits(classes, torch.cat([support_f, query_f]))[num_support:]

    def pair_logits(self, classes: Tensor, images: Tensor) -> Tensor:
        """The logits [n, N] of all pairs of classes [N, D] and images [n, D]."""
        shape = len(images), len(classes), *self.map_shape
        class_maps = classes.view(shape[1:]).expand(shape)
        image_maps = images.view(-1, 1, *self.map_shape).expand(shape)
        pairs = torch.cat([class_maps, image_maps], 2).flatten(0, 1)  # [n*N, 2*64, h, w]
        logits: Tensor = self(pairs)
        return logits.view(shape[:2])


def initialise_relation(layer: nn.Module) -> None:
    """The authors' code: convolutions N(0, 2 / n) with n = 9 * output channels; linear layers N(0, 0.01^2), bias 1."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, std=(2 / (layer.weight[0, 0].numel() * layer.out_channels)) ** 0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.ones_(layer.bias)
