"""MLP: fully connected layers, for regression and for MAML's network without convolutions."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.normalization import Norm, norm_layer


class MLP(nn.Module):
    """Linear layers, each with normalisation and a non-linearity; flattened images [n, C, H, W] to features [n, D].

    Finn et al. 2017, sections 5.1 (40-40) and 5.2 (256-128-64-64, with batch norm). With ``num_biases`` a learned
    vector joins the input of the first layer: the bias transformation of Finn et al. 2018. A gradient step on it can
    change more than a step on the layer's own bias.

    Args:
        image_shape: (C, H, W).
        widths: width of each layer.
        norm: where the normalisation takes its statistics from.
        activation: the non-linearity.
        num_biases: length of the learned vector.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        widths: Sequence[int],
        norm: Norm,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        num_biases: int = 0,
    ) -> None:
        super().__init__()
        inputs = [math.prod(image_shape) + num_biases, *widths]
        self.linears = nn.ModuleList(nn.Linear(before, after) for before, after in zip(inputs, widths, strict=False))
        self.norms = nn.ModuleList(norm_layer(norm, width) for width in widths)
        self.activation = activation
        self.biases = nn.Parameter(torch.zeros(num_biases)) if num_biases else None

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)
        if self.biases is not None:
            features = torch.cat([features, self.biases.expand(len(features), -1)], 1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            maps = linear(features)[:, :, None, None]  # normalised as maps of one position
            features = self.activation(norm(maps).flatten(1))
        return features
