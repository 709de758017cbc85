"""Backbones by name: image [n, C, H, W] -> feature vector [n, D]."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from fewshot_pl.backbones.conv4 import Conv4, Conv4Maps
from fewshot_pl.backbones.mlp import MLP
from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.replaced_norms import check_norms_of_others, replace_batch_norms
from fewshot_pl.backbones.residual import resnet12, wrn28_10
from fewshot_pl.errors import InputError, first_line

ImageShape = tuple[int, int, int]  # (C, H, W)


def build_backbone(
    name: str, image_shape: ImageShape, norm: Norm, weights: str | None = None, own: nn.Module | None = None
) -> nn.Module:
    """The backbone called ``name`` for images of ``image_shape``, or the network ``own`` in its place.

    Names: ``conv4``, ``conv4-32`` (32 channels), ``conv4-strided``, ``conv4-32-strided``, ``conv4-strided-flat`` (as in
    Reptile), ``conv4-signed`` (without the last ReLU), ``conv4-maps`` (as in Relation Networks), ``resnet12``,
    ``wrn28_10``, and ``timm/<name>`` for any timm model. Fully connected: ``mlp-<width>-<width>...``, for example
    ``mlp-40-40``, ``mlp-64-64-tanh`` (tanh, not ReLU), ``mlp-100-100-100-bias20`` (20 learned numbers join the input).

    Args:
        weights: for ``timm/...``: a file with a state dict, or ``pretrained`` for timm's own weights (from its
            cache, else downloaded).
        own: maps images [n, C, H, W] to features [n, D]; its ``nn.BatchNorm2d`` are replaced, as in timm's models.

    Raises:
        InputError: there is no such backbone, the weights cannot be used, or ``own`` has another norm already.
    """
    if own is not None:
        check_norms_of_others(own, norm)
        replace_batch_norms(own, norm)
        return own
    if name.startswith("timm/"):
        from fewshot_pl.backbones.timm_networks import timm_network  # timm takes a second to import

        return timm_network(name.removeprefix("timm/"), image_shape, norm, weights)
    if weights is not None:
        raise InputError(f"backbone_weights are for timm/... backbones; '{name}' starts from scratch")
    if match := re.fullmatch(r"mlp((?:-\d+)+)(-tanh)?(?:-bias(\d+))?", name):
        widths, tanh, num_biases = [int(width) for width in match[1].split("-")[1:]], match[2], int(match[3] or 0)
        return MLP(image_shape, widths, norm, torch.tanh if tanh else torch.relu, num_biases)
    if name not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        raise InputError(f"no backbone is called '{name}': use one of {known}, timm/<name>, or mlp-<width>-<width>")
    return _BUILDERS[name](image_shape, norm)


def num_features(backbone: nn.Module, image_shape: ImageShape) -> int:
    """The length D of the backbone's feature vectors for images of ``image_shape``.

    Raises:
        InputError: the backbone cannot take such images, as when they are too small, or its outputs are not vectors.
    """
    was_training = backbone.training
    try:
        with torch.no_grad():
            like = next(backbone.parameters(), torch.zeros(0))  # on its device, in its precision
            features = backbone.eval()(like.new_zeros(2, *image_shape))
    except (RuntimeError, AssertionError, IndexError) as error:  # timm's networks raise any of these
        cure = "if they are too small for it, use a larger --data.image_size, else another --model.backbone"
        if image_shape[1:] == (1, 1):  # a point of regression
            cure = "pass --model.backbone mlp-40-40 --model.norm none"
        told = f"images of {image_shape} (channels, height, width) do not pass through this backbone"
        raise InputError(f"{told} ({first_line(error)}): {cure}") from error
    finally:
        backbone.train(was_training)
    if features.ndim != 2:
        shape = list(features.shape)
        raise InputError(f"the backbone makes {shape} of 2 images, not [2, D]: let it end in nn.Flatten()")
    return int(features.shape[1])


def _conv4(image_shape: ImageShape, norm: Norm, **options: Any) -> nn.Module:
    return Conv4(image_shape[0], norm, **options)


_BUILDERS: dict[str, Callable[[ImageShape, Norm], nn.Module]] = {
    "conv4": _conv4,
    "conv4-32": partial(_conv4, num_channels=32),
    "conv4-strided": partial(_conv4, strided=True),
    "conv4-32-strided": partial(_conv4, num_channels=32, strided=True),
    "conv4-maps": Conv4Maps,
    "conv4-strided-flat": partial(_conv4, strided=True, flat=True),
    "conv4-signed": partial(_conv4, signed=True),
    "resnet12": resnet12,
    "wrn28_10": wrn28_10,
}
