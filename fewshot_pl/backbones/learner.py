"""Learner: what gradient-based methods adapt, a backbone with a linear head."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_pl.backbones.build import ImageShape, build_backbone, num_features
from fewshot_pl.backbones.conv4 import Conv4
from fewshot_pl.backbones.normalization import Norm
from fewshot_pl.backbones.passes import support_rows


class Learner(nn.Module):
    """Images [n, C, H, W] to logits [n, N]; its P parameters, in one row, are a point [P].

    Tasks side by side: with the parameters of G tasks, each concatenated along its first dimension, a learner that
    ``passes_side_by_side`` takes images [n, G*C, H, W] to logits [n, G*N], those of each task by its own.
    """

    def __init__(self, backbone: nn.Module, image_shape: ImageShape, num_ways: int) -> None:
        super().__init__()
        for layer in backbone.modules():
            if hasattr(layer, "fused_attn"):  # timm's attention: torch has no second derivatives of the fused one
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
        """Whether several tasks may pass side by side."""
        backbone_does = type(self.backbone) is Conv4 and self.backbone.passes_side_by_side
        # Buffers, as the masks of pruned weights, are those of one task.
        return backbone_does and next(self.buffers(), None) is None

    def num_side_by_side(self, images: Tensor, num_threads: int | None = None) -> int:
        """How many tasks it pays on a CPU to pass side by side, so that its caches keep their maps; or else 1.

        Args:
            images: [n, C, H, W] of one task.
            num_threads: by so many threads; default as many as torch has.
        """
        return self.backbone.num_side_by_side(images, num_threads) if type(self.backbone) is Conv4 else 1

    def point(self) -> Tensor:
        """The parameters as one vector [P]."""
        return torch.cat([parameter.flatten() for parameter in self.parameters()])

    def parameters_at(self, point: Tensor) -> dict[str, Tensor]:
        """The parameters that make up a vector [P], by name; of G tasks side by side [G, P]."""
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
    """Features [n, G*D] of tasks side by side to what a layer with the parameters of all makes of them, [n, G*N]."""
    of_each = features.view(len(features), num_tasks, -1).movedim(1, 0)
    weight, bias = layer.weight.view(num_tasks, layer.out_features, -1), layer.bias.view(num_tasks, 1, -1)
    # Not broadcast: how the gradient's sum is rounded would depend on a task's place among the others.
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
    """The learner with the backbone called ``backbone``, see ``build_backbone``, and a head of ``num_ways`` outputs.

    What has no pre-trained ``weights`` starts from Xavier's distribution with zero biases; an ``mlp-...`` from
    torch's, whose biases spread the bends of its function over the x axis; a network of one's ``own`` as it is.
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
    """The logits [N*Q, N] that a learner with these parameters gives to a task's queries, all in one batch.

    With norm ``support`` the support passes with them, as batch norm takes its statistics from there.
    """
    if norm != "support":
        logits: Tensor = functional_call(learner, parameters, (query_x,))
        return logits
    num_support = support_x.shape[0]
    with support_rows(learner, num_support):
        logits = functional_call(learner, parameters, (torch.cat([support_x, query_x]),))
    return logits[num_support:]


def side_by_side(values: Tensor) -> Tensor:
    """A parameter [G, ...] of G tasks, concatenated along its first dimension, in memory as ``channels_last`` says."""
    if values.ndim != 5 or not values.is_cpu:
        return values.flatten(0, 1)
    return values.permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)


def channels_last(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same parameters, on a CPU with the channels of convolutions innermost: they run faster so, but under vmap."""
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 and value.is_cpu else value
        for name, value in parameters.items()
    }


def draws_random_numbers(module: nn.Module) -> bool:
    """Whether a training pass drops parts of the network at random."""
    dropping = (layer for layer in module.modules() if re.search("Drop|Stochastic", type(layer).__name__))
    return any(getattr(layer, "p", getattr(layer, "drop_prob", 1)) for layer in dropping)


def initialise_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every convolution and linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
