"""Image models of timm as backbones, with timm's weights, those of a file, or none."""

import errno
from pathlib import Path
from typing import Any

import timm
from torch import nn

from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.replaced_norms import replace_batch_norms
from fewshot_pl.errors import InputError


def timm_network(name: str, image_shape: tuple[int, int, int], norm: Norm, weights: str | None) -> nn.Module:
    """timm's model ``name`` from images [n, C, H, W] to features [n, D]; arguments and errors as ``build_backbone``."""
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
    if weights is None:
        backbone: nn.Module = timm.create_model(name, **options)
        return backbone
    if weights == "pretrained":
        return _pretrained(name, options)
    return _with_weights_of(Path(weights).expanduser(), name, options)


def _pretrained(name: str, options: dict[str, Any]) -> nn.Module:
    """The timm model with timm's own weights."""
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
    classifier = timm.models.get_pretrained_cfg_value(name, "classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)
