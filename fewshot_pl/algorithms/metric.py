"""MetricAlgorithm: methods that embed every image once and compare features."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from fewshot_pl.algorithms.base import FewShotAlgorithm, QueryPredictor
from fewshot_pl.backbones import ImageShape, Norm, build_backbone, num_features
from fewshot_pl.backbones.normalization import episodic_norms, other_batch_norms
from fewshot_pl.backbones.passes import joint_pass
from fewshot_pl.registries import is_ours


class MetricAlgorithm(FewShotAlgorithm):
    """Base of the metric methods: ``query_logits`` split into an embedding and a comparison.

    Support and query images pass through the backbone together, as in the code of ProtoNet's authors. Batch
    statistics, if the norm mode has them, cover both (``support``: the support images only).

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
        network = build_backbone(backbone, image_shape, norm, backbone_weights, self._named_backbone(image_shape))
        # Convolutions of many images run up to twice as fast with the channels innermost.
        self.backbone = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.num_features = num_features(network, image_shape)  # D; raises if the images are too small

    def encode(self, images: Tensor) -> Tensor:
        """The features [n, D] of images [n, C, H, W].

        In training a call outside ``map_tasks`` counts as a pass of norm ``running``, unless gradients are off.
        """
        features: Tensor = self.backbone(images)
        self.update_running_statistics()
        return features

    @property
    def embeds_alone(self) -> bool:
        """Whether an image's features in an evaluation depend on no other image; false if a user's code makes them."""
        is_inductive = all(layer.mode == "running" for layer in episodic_norms(self.backbone))
        others_are = all(layer.track_running_stats for layer in other_batch_norms(self.backbone))
        return not self.replaced_passes and is_inductive and others_are

    @property
    def replaced_passes(self) -> list[str]:
        """The methods on the way from images to logits that a user's subclass replaces by its own."""
        passes = ("query_logits", "encode", "forward")
        return [name for name in passes if not is_ours(getattr(type(self), name))]

    @abstractmethod
    def logits_from_features(self, support_f: Tensor, support_y: Tensor, query_f: Tensor, num_ways: int) -> Tensor:
        """The logits [N*Q, N] from features [N*K, D], labels [N*K] and features [N*Q, D] of one task."""

    def query_logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        if support_x.ndim == 2:  # features already, see Episode
            return self.logits_from_features(support_x, support_y, query_x, num_ways)
        support_f, query_f = self._encoded(support_x, query_x)
        return self.logits_from_features(support_f, support_y, query_f, num_ways)

    def _encoded(self, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """The features [N*K, D], [N*Q, D] of one task's images, passed through the backbone as in training."""
        return joint_pass(self, self.encode, support_x, query_x)

    def predictor(self, support_x: Tensor, support_y: Tensor, num_ways: int) -> QueryPredictor:
        if not self.embeds_alone:
            return super().predictor(support_x, support_y, num_ways)
        support_f = self.encode(support_x)
        return lambda query_x: self.logits_from_features(support_f, support_y, self.encode(query_x), num_ways)

    # Lightning's hooks: an evaluation embeds each image once, if the data module can ---------------------

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        if not self.trainer.sanity_checking:
            self._embed_split("val")

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._embed_split("test")

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._forget_features()

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._forget_features()

    def _embed_split(self, split: str) -> None:
        embed_split = getattr(self._datamodule, "embed_split", None)
        if embed_split and self.embeds_alone:
            with self.trainer.precision_plugin.forward_context():
                embed_split(split, lambda images: self.encode(images.to(self.dtype)), self.device)

    def _forget_features(self) -> None:
        if hasattr(self._datamodule, "forget_features"):
            self._datamodule.forget_features()

    @property
    def _datamodule(self) -> Any:
        return getattr(self.trainer, "datamodule", None)
