"""Torch's batch norms inside a network, replaced by layers of a norm mode."""

import torch
from torch import nn

from fewshot_pl.backbones.normalization import EpisodicBatchNorm2d, Norm, norm_layer
from fewshot_pl.errors import InputError

_REPLACED_BY = "replaces_batch_norm_by"  # an attribute of layers in place of torch's batch norms: their norm


def replace_batch_norms(module: nn.Module, norm: Norm) -> None:
    """Replace every ``nn.BatchNorm2d`` inside ``module``, keeping weights, frozen or not, and running statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _replacement(child, norm))
        else:
            replace_batch_norms(child, norm)


def _replacement(batch_norm: nn.BatchNorm2d, norm: Norm) -> nn.Module:
    layer = norm_layer(norm, batch_norm.num_features, batch_norm.affine)
    vars(layer)[_REPLACED_BY] = norm
    held = (values for values in (batch_norm.weight, batch_norm.running_mean) if values is not None)
    layer.to(next(held, torch.empty(0)))  # its device and precision
    layer.load_state_dict(batch_norm.state_dict(), strict=False)  # norm none takes nothing, others what they share
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(getattr(batch_norm, name).requires_grad)
    if isinstance(layer, EpisodicBatchNorm2d):
        layer.eps = batch_norm.eps
        layer.momentum = layer.momentum if batch_norm.momentum is None else batch_norm.momentum
    # timm's BatchNormAct2d is a batch norm followed by dropout and an activation.
    behind = [part for part in (getattr(batch_norm, "drop", None), getattr(batch_norm, "act", None)) if part]
    return nn.Sequential(layer, *behind) if behind else layer


def check_norms_of_others(module: nn.Module, norm: Norm) -> None:
    """Raise InputError if an algorithm of another norm has already replaced batch norms inside ``module``."""
    for layer in module.modules():
        before = layer.mode if isinstance(layer, EpisodicBatchNorm2d) else vars(layer).get(_REPLACED_BY, norm)
        if before != norm:
            raise InputError(
                f"the network already has norm {before}, of another algorithm that was given it, and cannot have norm "
                f"{norm} too: give each algorithm its own copy, copy.deepcopy(net), before the first one takes it, or "
                f"pass --model.norm {before}"
            )
        if isinstance(layer, EpisodicBatchNorm2d):
            layer.is_shared = True
