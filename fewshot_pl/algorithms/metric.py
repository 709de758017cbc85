"""MetricAlgorithm: methods that embed every image once and compare features."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.backbones import ImageShape, Norm, build_backbone, num_features
from fewshot_pl.backbones.normalization import support_rows


class MetricAlgorithm(FewShotAlgorithm):
    """Base of the metric methods: ``query_logits`` split into an embedding and a comparison.

    Support and query images pass through the backbone together, as in the authors' code of ProtoNet: batch
    statistics, where the norm mode has them, see both (``support``: the support images only).

    Args:
        image_shape: (C, H, W) of the images.
        backbone: name of the embedding network, see ``build_backbone``.
        backbone_weights: pre-trained weights of a ``timm/...`` backbone: a file, or ``pretrained``.
        norm: where batch norm takes its statistics from.
    """

    def __init__(
        self,
        image_shape: ImageShape = (1, 28, 28),
        backbone: str = "conv4",
        backbone_weights: str | None = None,
        norm: Norm = "running",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        network = build_backbone(backbone, image_shape, norm, backbone_weights)
        # Convolutions of many images run up to twice as fast with the channels innermost.
        self.backbone = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.num_features = num_features(network, image_shape)  # D; raises where the images are too small

    def encode(self, images: Tensor) -> Tensor:
        """The features [n, D] of images [n, C, H, W]."""
        features: Tensor = self.backbone(images)
        return features

    @abstractmethod
    def logits_from_features(self, support_f: Tensor, support_y: Tensor, query_f: Tensor, num_ways: int) -> Tensor:
        """The logits [N*Q, N] from features [N*K, D], labels [N*K] and features [N*Q, D] of one task."""

    def query_logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        num_support = support_x.shape[0]
        with support_rows(self, num_support):
            features = self.encode(torch.cat([support_x, query_x]))
        return self.logits_from_features(features[:num_support], support_y, features[num_support:], num_ways)
