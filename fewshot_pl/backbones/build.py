"""Backbones by name: image [n, C, H, W] -> feature vector [n, D]."""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.conv4 import Conv4
from fewshot_pl.backbones.normalization import Norm, replace_batch_norms
from fewshot_pl.errors import InputError

ImageShape = tuple[int, int, int]  # (C, H, W)


def build_backbone(name: str, image_shape: ImageShape, norm: Norm, weights: str | None = None) -> nn.Module:
    """The backbone called ``name`` for images of ``image_shape``.

    Names: ``conv4``, ``conv4-32`` (32 channels), ``conv4-strided``, ``conv4-32-strided``, ``resnet12``,
    ``wrn28_10``, and ``timm/<name>`` for any model of timm.

    Args:
        weights: for ``timm/...``: a file with a state dict, or ``pretrained`` for timm's own (its cache, else a
            download).

    Raises:
        InputError: there is no such backbone, or the weights cannot be used.
    """
    if name.startswith("timm/"):
        return _timm(name.removeprefix("timm/"), image_shape, norm, weights)
    if weights is not None:
        raise InputError(f"backbone_weights are for timm/... backbones; '{name}' starts from scratch")
    if name not in _BUILDERS:
        raise InputError(f"no backbone is called '{name}': use one of {', '.join(_BUILDERS)} or timm/<name>")
    return _BUILDERS[name](image_shape, norm)


def num_features(backbone: nn.Module, image_shape: ImageShape) -> int:
    """The length D of the backbone's feature vectors for images of ``image_shape``.

    Raises:
        InputError: the images are too small for the backbone.
    """
    was_training = backbone.training
    try:
        with torch.no_grad():
            size = backbone.eval()(torch.zeros(2, *image_shape)).shape[1]
    except RuntimeError as error:
        raise InputError(
            f"images of {image_shape[1]}x{image_shape[2]} are too small for this backbone: use a larger "
            "--data.image_size or another --model.backbone"
        ) from error
    finally:
        backbone.train(was_training)
    return int(size)


def _conv4(image_shape: ImageShape, norm: Norm, **options: Any) -> nn.Module:
    return Conv4(image_shape[0], norm, **options)


def _learn2learn(image_shape: ImageShape, norm: Norm, class_name: str) -> nn.Module:
    with contextlib.redirect_stderr(io.StringIO()):  # gym's deprecation notice
        from learn2learn.vision import models
    backbone = _LEARN2LEARN[class_name](models)
    if image_shape[0] != 3:
        raise InputError(f"{class_name} takes colour images: use conv4 for images with {image_shape[0]} channel")
    replace_batch_norms(backbone, norm)
    return _Flat(backbone)


_LEARN2LEARN: dict[str, Callable[[Any], nn.Module]] = {
    "resnet12": lambda models: models.ResNet12Backbone(),
    "wrn28_10": lambda models: models.WRN28Backbone(),
}


def _timm(name: str, image_shape: ImageShape, norm: Norm, weights: str | None) -> nn.Module:
    import timm

    if name not in timm.list_models():
        raise InputError(f"timm has no model '{name}': timm.list_models() names them")
    file = None if weights in (None, "pretrained") else Path(str(weights))
    if file and not file.is_file():
        raise InputError(f"{file} does not exist: give --model.backbone_weights a file with the weights of {name}")
    options = {"img_size": image_shape[1]} if "vit" in name or "swin" in name else {}
    backbone: nn.Module = timm.create_model(
        name,
        pretrained=weights == "pretrained",
        checkpoint_path=str(file) if file else "",
        in_chans=image_shape[0],
        num_classes=0,
        **options,
    )
    replace_batch_norms(backbone, norm)
    return backbone


class _Flat(nn.Module):
    """A backbone whose output is flattened to vectors."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return torch.flatten(self.backbone(images), 1)


_BUILDERS: dict[str, Callable[[ImageShape, Norm], nn.Module]] = {
    "conv4": _conv4,
    "conv4-32": partial(_conv4, num_channels=32),
    "conv4-strided": partial(_conv4, strided=True),
    "conv4-32-strided": partial(_conv4, num_channels=32, strided=True),
    "resnet12": partial(_learn2learn, class_name="resnet12"),
    "wrn28_10": partial(_learn2learn, class_name="wrn28_10"),
}
