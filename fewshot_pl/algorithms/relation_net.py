"""Relation Networks (Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.metric import MetricAlgorithm
from fewshot_pl.backbones import Conv4Maps, Norm, RelationHead
from fewshot_pl.backbones.relation_head import initialise_relation
from fewshot_pl.episode import UNKNOWN
from fewshot_pl.errors import InputError
from fewshot_pl.functional.precision import at_least_float32
from fewshot_pl.functional.prototypes import class_sums, one_hot


class RelationNet(MetricAlgorithm):
    """Score how well a query matches each class, by a network that compares their feature maps.

    r_n = sigmoid(head([c_n, f(x)])), where c_n is the sum of f over the support of class n, and the loss is the mean of
    (r_n - [y = n])^2 over queries and classes (section 3, equations 1 and 2). Logits are the values before the sigmoid:
    relation scores are ``logits.sigmoid()``, one for each class, and do not sum to 1. Learned: f and the head;
    nothing is adapted at test.

    As in the authors' code, batch norm never uses running statistics: support and query pass through f each with their
    own, and the head normalises all pairs of classes and queries together. With norm ``support`` the head's statistics
    come from the pairs of classes and support images.

    Args:
        backbone: ``conv4-maps``, the paper's; the head needs maps.
        norm: where batch norm takes its statistics from.
        max_gradient_norm: scale f's and the head's gradients each down to this norm in training, before
            ``--trainer.gradient_clip_val`` applies; 0 turns this off. 0.5 is from the authors' code.
        lr_halve_every: training steps per halving of the learning rate; 100,000 in the authors' code, one episode each.
    """

    argument_ranges = at_least(0, "max_gradient_norm")

    def __init__(
        self,
        backbone: str = "conv4-maps",
        norm: Norm = "transductive",
        max_gradient_norm: float = 0.5,
        lr_halve_every: int = 100_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, norm=norm, lr_halve_every=lr_halve_every, **kwargs)
        if not isinstance(self.backbone, Conv4Maps):
            name = self.hparams["backbone"]
            raise InputError(f"RelationNet compares feature maps, and {name} has none: use conv4-maps")
        self.map_shape: tuple[int, ...] = self.backbone.map_shape
        self.head = RelationHead(self.map_shape, norm)
        self.head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.max_gradient_norm = max_gradient_norm
        self.apply(initialise_relation)

    def _encoded(self, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        if self.hparams["norm"] != "transductive":
            return super()._encoded(support_x, query_x)
        return self.encode(support_x), self.encode(query_x)

    @property
    def vectorises_features(self) -> bool:
        return False  # vmap convolves all tasks at once, and the rounding depends on their number

    def logits_from_features(self, support_f: Tensor, support_y: Tensor, query_f: Tensor, num_ways: int) -> Tensor:
        classes = class_sums(support_f, support_y, num_ways)  # [N, D]
        return self.head.query_logits(classes, support_f, query_f)

    def query_loss(self, logits: Tensor, query_y: Tensor) -> Tensor:
        labels = query_y.flatten()
        scores = at_least_float32(logits).sigmoid().flatten(0, 1)  # [T*N*Q, N]
        errors = (scores - one_hot(labels, logits.shape[-1]).to(scores.dtype)).square().mean(-1)
        known = labels != UNKNOWN
        return (errors * known).sum() / known.sum()

    def class_log_probabilities(self, logits: Tensor) -> Tensor:
        # The paper gives no distribution; this one is the scores divided by their sum.
        return F.log_softmax(F.logsigmoid(at_least_float32(logits)), -1)

    def clipped_networks(self) -> list[nn.Module]:
        return [self.backbone, self.head]
