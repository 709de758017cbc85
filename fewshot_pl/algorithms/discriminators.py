"""The two classifiers that MetaGAN trains against a generator: one that adapts to a task, one that compares."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_pl.algorithms.adaptation import adapted_learner
from fewshot_pl.backbones import Conv4Maps, ImageShape, Learner, Norm, RelationHead
from fewshot_pl.backbones.learner import query_logits_at
from fewshot_pl.backbones.passes import joint_pass
from fewshot_pl.backbones.relation_head import initialise_relation
from fewshot_pl.functional.adversarial import fake_losses, real_losses
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.objectives import prediction_loss
from fewshot_pl.functional.prototypes import class_sums


class SupportSet(NamedTuple):
    """What the classifier of one task is made from."""

    x: Tensor  # [N*K, C, H, W]
    y: Tensor | None  # [N*K]; None: the task has no labels
    num_ways: int  # N; meaningless without labels
    unlabelled: Tensor | None  # [U, C, H, W]; None: the support takes their place
    fakes: Tensor | None  # [N*K, C, H, W], constants; None: the game is off


class Weights(NamedTuple):
    """Weights of the losses on real and on generated images relative to the cross-entropy; 0 leaves one out."""

    real: float
    fake: float

    def total(self, supervised: Tensor | None, real: Tensor | None, fake: Tensor | None) -> Tensor:
        """L_D, the weighted sum of those of its three parts that are not None."""
        parts = [(1.0, supervised), (self.real, real), (self.fake, fake)]
        counted = [weight * part for weight, part in parts if weight and part is not None]
        return sum(counted[1:], counted[0])


class Discriminator(nn.Module, ABC):
    """A network whose N-way logits are a function of parameters, which the caller may hold constant."""

    @abstractmethod
    def adapted(self, support: SupportSet, num_steps: int) -> Parameters:
        """The parameters for a task, as a function of the learned ones."""

    @abstractmethod
    def logits_at(self, parameters: Parameters, support: SupportSet, images: Tensor) -> Tensor:
        """The logits [n, N] of images [n, C, H, W], which pass in a separate batch."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """The features [n, ...] of images [n, C, H, W], which pass in a separate batch, before any adaptation."""

    def networks(self) -> list[nn.Module]:
        """The networks that it consists of, whose gradients are clipped separately."""
        return [self]


class AdaptedLearner(Discriminator):
    """MAML's classifier: a learner after ``num_steps`` steps of gradient descent on L_D of the support."""

    def __init__(
        self,
        learner: Learner,
        norm: Norm,
        weights: Weights,
        inner_lr: float,
        first_order: bool,
        inner_loss_reduction: Literal["sum_over_shots", "mean"],
    ) -> None:
        super().__init__()
        self.learner = learner
        self.norm = norm
        self.weights = weights
        self.inner_lr = inner_lr
        self.first_order = first_order
        self.inner_loss_reduction = inner_loss_reduction

    def adapted(self, support: SupportSet, num_steps: int) -> Parameters:
        def inner_loss(parameters: Parameters) -> Tensor:
            loss = self._support_loss(parameters, support)
            return loss * self.learner.head.out_features if self.inner_loss_reduction == "sum_over_shots" else loss

        parameters = dict(self.learner.named_parameters())
        return adapted_learner(self.learner, inner_loss, parameters, self.inner_lr, num_steps, self.first_order)

    def _support_loss(self, parameters: Parameters, support: SupportSet) -> Tensor:
        """L_D on the support; real and generated images pass separately, or batch norm would tell them apart."""
        logits: Tensor = functional_call(self.learner, parameters, (support.x,))
        supervised = None if support.y is None else prediction_loss(logits, support.y)
        if support.fakes is None:
            return self.weights.total(supervised, None, None)
        if support.unlabelled is not None:
            logits = self.logits_at(parameters, support, support.unlabelled)
        on_fakes = self.logits_at(parameters, support, support.fakes)
        return self.weights.total(supervised, real_losses(logits).mean(), fake_losses(on_fakes).mean())

    def logits_at(self, parameters: Parameters, support: SupportSet, images: Tensor) -> Tensor:
        return query_logits_at(self.learner, parameters, support.x, images, self.norm)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.learner.backbone(images)
        return features


class RelationClassifier(Discriminator):
    """Relation Networks' classifier: images are compared with the classes of the support; nothing is adapted.

    The logits are the relation scores before the sigmoid. Without labels, every support image counts as a separate
    class.
    """

    def __init__(self, image_shape: ImageShape, norm: Norm) -> None:
        super().__init__()
        self.backbone = Conv4Maps(image_shape, norm)
        self.head = RelationHead(self.backbone.map_shape, norm)
        self.norm = norm
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.apply(initialise_relation)

    def adapted(self, support: SupportSet, num_steps: int) -> Parameters:
        return dict(self.named_parameters())

    def logits_at(self, parameters: Parameters, support: SupportSet, images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self, parameters, (support, images))
        return logits

    def forward(self, support: SupportSet, images: Tensor) -> Tensor:
        support_f, image_f = self._features(support.x, images)
        classes = support_f if support.y is None else class_sums(support_f, support.y, support.num_ways)
        return self.head.query_logits(classes, support_f, image_f)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features

    def networks(self) -> list[nn.Module]:
        return [self.backbone, self.head]

    def _features(self, support_x: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features of the support and of images, passed as in RelationNet: together except in ``transductive``."""
        if self.norm == "transductive":
            return self.backbone(support_x), self.backbone(images)
        return joint_pass(self.backbone, self.backbone, support_x, images)
