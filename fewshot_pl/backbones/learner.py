"""Learner: the network that gradient-based methods adapt, a backbone with a linear head."""

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_pl.backbones.build import ImageShape, build_backbone, num_features
from fewshot_pl.backbones.conv4 import Conv4
from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.passes import joint_pass


class Learner(nn.Module):
    """Images [n, C, H, W] to logits [n, N]; its P parameters, as one vector, are a point [P].

    Tasks side by side: with the parameters of G tasks, each concatenated along its first dimension, a learner that
    ``passes_side_by_side`` maps images [n, G*C, H, W] to logits [n, G*N], each task with its own parameters.
    """

    def __init__(self, backbone: nn.Module, image_shape: ImageShape, num_ways: int) -> None:
        super().__init__()
        for layer in backbone.modules():
            if hasattr(layer, "fused_attn"):  # timm's attention: torch's fused version has no second derivatives
                layer.fused_attn = False  # type: ignore[assignment]
        self.backbone = backbone
        self.vectorised = False  # whether the pass runs under vmap; set by vectorised_pass()
        self.head = nn.Linear(num_features(backbone, image_shape), num_ways)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        num_tasks = len(self.head.weight) // self.head.out_features
        logits: Tensor = self.head(features) if num_tasks == 1 else _grouped_linear(features, self.head, num_tasks)
        return logits

    @property
    def passes_side_by_side(self) -> bool:
        """Whether several tasks can pass through the network side by side."""
        backbone_does = type(self.backbone) is Conv4 and self.backbone.passes_side_by_side
        # Buffers, such as the masks of pruned weights, belong to one task.
        return backbone_does and next(self.buffers(), None) is None

    def num_side_by_side(self, images: Tensor, num_threads: int | None = None) -> int:
        """The number of tasks worth passing side by side on a CPU, so that its caches hold their maps; else 1.

        Args:
            images: [n, C, H, W] of one task.
            num_threads: threads that compute them; default: as many as torch has.
        """
        return self.backbone.num_side_by_side(images, num_threads) if type(self.backbone) is Conv4 else 1

    @property
    def is_small(self) -> bool:
        """Whether two cores train faster on a task each than together on one task after the other, as through Conv4.

        Larger networks gain nothing.
        """
        return type(self.backbone) is Conv4

    def point(self) -> Tensor:
        """The parameters as one vector [P]."""
        return torch.cat([parameter.flatten() for parameter in self.parameters()])

    def parameters_at(self, point: Tensor) -> dict[str, Tensor]:
        """The parameters in a point [P], by name; for points [G, P], those of G tasks side by side."""
        parameters = dict(self.named_parameters())
        pieces = torch.split(point, [parameter.numel() for parameter in parameters.values()], -1)
        found = {
            name: piece.view(*point.shape[:-1], *parameters[name].shape)
            for name, piece in zip(parameters, pieces, strict=True)
        }
        if point.ndim == 2:
            return {name: side_by_side(values) for name, values in found.items()}
        return found if self.vectorised else channels_last(found)


def _grouped_linear(features: Tensor, layer: nn.Linear, num_tasks: int) -> Tensor:
    """The outputs [n, G*N] of a linear layer with the parameters of G tasks, for their features [n, G*D]."""
    of_each = features.view(len(features), num_tasks, -1).movedim(1, 0)
    weight, bias = layer.weight.view(num_tasks, layer.out_features, -1), layer.bias.view(num_tasks, 1, -1)
    # Not broadcast: rounding of the gradient's sum would depend on a task's place among the others.
    biases = torch.bmm(bias.new_ones(num_tasks, len(features), 1), bias)
    return torch.baddbmm(biases, of_each, weight.mT).movedim(0, 1).flatten(1)


def build_learner(
    backbone: str,
    image_shape: ImageShape,
    norm: Norm,
    num_ways: int,
    weights: str | None = None,
    own: nn.Module | None = None,
) -> Learner:
    """A learner with the backbone called ``backbone`` (see ``build_backbone``) and a head of ``num_ways`` outputs.

    Layers without pre-trained ``weights`` start with Xavier-uniform weights and zero biases. An ``mlp-...`` keeps
    torch's default, whose biases spread the bends of its function over the x axis, and ``own`` stays as it is.
    """
    learner = Learner(build_backbone(backbone, image_shape, norm, weights, own), image_shape, num_ways)
    if weights is not None or own is not None:
        initialise_xavier(learner.head)
    elif not backbone.startswith("mlp-"):
        initialise_xavier(learner)
    return learner


def query_logits_at(
    learner: Learner, parameters: dict[str, Tensor], support_x: Tensor, query_x: Tensor, norm: Norm
) -> Tensor:
    """The logits [N*Q, N] of a task's queries, all in one batch, from a learner with these parameters.

    With norm ``support`` the support images pass in the same batch, as batch norm takes its statistics from them.
    """
    if norm != "support":
        logits: Tensor = functional_call(learner, parameters, (query_x,))
        return logits
    return joint_pass(learner, partial(functional_call, learner, parameters), support_x, query_x)[1]


def body_and_head(parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A learner's parameters below its head, and those of the head."""
    head = {name: value for name, value in parameters.items() if name.startswith("head.")}
    return {name: value for name, value in parameters.items() if name not in head}, head


def side_by_side(values: Tensor) -> Tensor:
    """A parameter [G, ...] of G tasks, concatenated along its first dimension, in the layout of ``channels_last``."""
    if values.ndim != 5 or not values.is_cpu:
        return values.flatten(0, 1)
    return values.permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)


def channels_last(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same parameters, on a CPU with the channels of convolutions innermost: faster, except under vmap."""
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 and value.is_cpu else value
        for name, value in parameters.items()
    }


def draws_random_numbers(module: nn.Module) -> bool:
    """Whether a training pass drops parts of the network at random, as far as its layers tell."""
    return any(map(_drops, module.modules()))


def _drops(layer: nn.Module) -> bool:
    if re.search("Drop|Stochastic", type(layer).__name__):
        return bool(getattr(layer, "p", getattr(layer, "drop_prob", 1)))
    rate = vars(layer).get("dropout", 0)  # of attention and recurrent layers
    return isinstance(rate, int | float) and rate > 0


def initialise_xavier(module: nn.Module) -> None:
    """Initialise every convolution and linear layer with Xavier-uniform weights and zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
