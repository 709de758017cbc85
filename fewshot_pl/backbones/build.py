"""Backbones by name: image [n, C, H, W] -> feature vector [n, D]."""

import errno
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewshot_pl.backbones.conv4 import Conv4, Conv4Maps
from fewshot_pl.backbones.mlp import MLP
from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.replaced_norms import check_norms_of_others, replace_batch_norms
from fewshot_pl.backbones.residual import resnet12, wrn28_10
from fewshot_pl.errors import InputError

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
        return _timm(name.removeprefix("timm/"), image_shape, norm, weights)
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
        InputError: the images are too small for the backbone, or its outputs are not vectors.
    """
    was_training = backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(2, *image_shape))
    except (RuntimeError, AssertionError, IndexError) as error:  # timm's networks raise any of these
        cure = "use a larger --data.image_size or another --model.backbone"
        if image_shape[1:] == (1, 1):  # a point of regression
            cure = "pass --model.backbone mlp-40-40 --model.norm none"
        raise InputError(
            f"images of {image_shape[1]}x{image_shape[2]} are too small for this backbone: {cure}"
        ) from error
    finally:
        backbone.train(was_training)
    if features.ndim != 2:
        shape = list(features.shape)
        raise InputError(f"the backbone makes {shape} of 2 images, not [2, D]: let it end in nn.Flatten()")
    return int(features.shape[1])


def _conv4(image_shape: ImageShape, norm: Norm, **options: Any) -> nn.Module:
    return Conv4(image_shape[0], norm, **options)


def _timm(name: str, image_shape: ImageShape, norm: Norm, weights: str | None) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm has no model '{name}': timm.list_models() names them")
    settings = timm.models.get_pretrained_cfg(name)
    is_sized = settings is not None and settings.fixed_input_size  # made for one size, passed as an argument
    options: dict[str, Any] = {"img_size": image_shape[1:]} if is_sized else {}
    options |= {"in_chans": image_shape[0], "num_classes": 0, "pretrained": weights is not None}
    try:
        backbone = _created(name, options, weights)
    except AssertionError as error:
        raise InputError(
            f"timm's {name} takes no images of {image_shape[1]}x{image_shape[2]}: use another --data.image_size or "
            "another --model.backbone"
        ) from error
    replace_batch_norms(backbone, norm)
    return backbone


def _created(name: str, options: dict[str, Any], weights: str | None) -> nn.Module:
    import timm

    if weights is None:
        backbone: nn.Module = timm.create_model(name, **options)
        return backbone
    if weights == "pretrained":
        return _pretrained(name, options)
    return _with_weights_of(Path(weights).expanduser(), name, options)


def _pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """The timm model with timm's own weights."""
    import timm

    settings = timm.models.get_pretrained_cfg(name)
    if settings is None or not settings.has_weights:
        raise InputError(f"timm has no weights of {name}: leave out --model.backbone_weights, or give it a file")
    try:
        backbone: nn.Module = timm.create_model(name, **options)
    except OSError as error:  # from huggingface_hub, which looks in its cache first
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"timm's weights of {name} are not in its cache and cannot be downloaded: connect to the internet, or give "
            "--model.backbone_weights a file with them"
        ) from error
    return backbone


def _with_weights_of(file: Path, name: str, options: dict[str, Any]) -> nn.Module:
    """The timm model with weights from a file, fitted to image size and channels as timm fits its own."""
    import timm

    if not file.is_file():
        raise InputError(f"{file} does not exist: give --model.backbone_weights a file with the weights of {name}")
    try:
        state = timm.models.load_state_dict(str(file), weights_only=True)
        for classifier in _classifiers(name):
            state.pop(f"{classifier}.weight", None)
            state.pop(f"{classifier}.bias", None)
        # Without classes, like the model: timm then requires every weight to be there.
        source = {"state_dict": state, "num_classes": 0, "label_offset": 0, "custom_load": False}
        backbone: nn.Module = timm.create_model(name, pretrained_cfg_overlay=source, **options)
    except Exception as error:  # timm and torch can raise anything on damaged files or other weights
        raise InputError(
            f"{file} does not hold the weights of {name}: give --model.backbone_weights a state dict of this model, "
            "saved by torch or safetensors"
        ) from error
    vars(backbone)["pretrained_cfg"].pop("state_dict")  # else every copy of the model would hold the weights twice
    return backbone


def _classifiers(name: str) -> tuple[str, ...]:
    import timm

    classifier = timm.models.get_pretrained_cfg_value(name, "classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


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
