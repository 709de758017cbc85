"""MetaGAN (Zhang, Che, Ghahramani, Bengio, Song 2018)."""

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from fewshot_pl.algorithms.base import FewShotAlgorithm, training_accuracy
from fewshot_pl.algorithms.discriminators import (
    AdaptedLearner,
    Discriminator,
    RelationClassifier,
    SupportSet,
    Weights,
)
from fewshot_pl.algorithms.task_map import Predictor
from fewshot_pl.backbones import ImageShape, Norm, build_learner
from fewshot_pl.backbones.generator import Generator, ImageRange, TaskEncoder
from fewshot_pl.episode import Episode, rows
from fewshot_pl.errors import InputError
from fewshot_pl.functional.adversarial import fake_losses, generator_losses, real_losses
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.noise import fixed_normal_noise

_NUM_NOISE = 100


class MetaGAN(FewShotAlgorithm):
    """Sharpen a few-shot classifier D by images that a generator G draws for each task, to be told from real ones.

    D has one class more, "generated". With its N logits l, and 0 for that class:

        L_D = CE(l(x), y) on labelled + softplus(-LSE l(x)) on unlabelled + softplus(+LSE l(x)) on generated images
        L_G = softplus(-LSE l(x)) on generated images

    where LSE is log-sum-exp over the N classes. G draws from noise and from the mean of an encoder E over the support.
    Learned: D, G and E. With classifier ``maml``, D adapts to a task by gradient steps on L_D of the support, of as
    many generated images and of the unlabelled images, or else of the support again; then L_D and L_G are those of the
    adapted D on the queries and as many other generated images. With ``relation_net`` D is a Relation Network, and
    nothing is adapted. At test D adapts likewise, and classifies by the N logits alone.

    A training task without labels has no cross-entropy; a Relation Network then counts each of its support images as a
    class of its own.

    There is no code of the authors'. Choices: both players take one step at a time, G on the non-saturating loss;
    generated images of the inner loop, and in L_G the adapted D, are constants to G; real and generated images pass
    through D apart, as batch norm would tell them apart in one batch; the networks of E and G are plain ones
    (``backbones/generator.py``), and G's tanh is scaled to the range of the real images, which stay as they are.
    Differs from Relation Networks: cross-entropy for their squared error.

    Args:
        num_ways: N; for ``maml`` the head has so many outputs, so training and test have the same N.
        image_shape: (C, H, W) of the images.
        pixel_range: lowest and highest value of the images, per channel or for all.
        classifier: D, ``maml`` or ``relation_net``.
        backbone: of D, see ``build_backbone``; for ``relation_net`` it is ``conv4-maps``.
        backbone_weights: pre-trained weights of a ``timm/...`` backbone: a file, or ``pretrained``.
        norm: where D's batch norm takes its statistics from; E and G have none.
        real_weight: of the loss on unlabelled images; with both weights 0 there is no game, and D is trained as ever.
        fake_weight: of the loss on generated images.
        inner_lr: ``maml``'s, as are the next four.
        num_inner_steps: steps on the support in training.
        num_inner_steps_test: in validation and test; default as in training.
        first_order: count inner gradients as constants.
        inner_loss_reduction: L_D in the inner loop is the ``mean`` over images, or N times that
            (``sum_over_shots``, see MAML).
        learning_rate: of D.
        generator_learning_rate: of G and E.
        beta1: Adam's, for both players.
        beta2: Adam's, for both players.
        generator_width: channels of E's first and G's last layer; the others have two or four times as many.
    """

    def __init__(
        self,
        num_ways: int = 5,
        image_shape: ImageShape = (1, 28, 28),
        pixel_range: ImageRange = ((0.0,), (1.0,)),
        classifier: Literal["maml", "relation_net"] = "maml",
        backbone: str = "conv4",
        backbone_weights: str | None = None,
        norm: Norm = "transductive",
        real_weight: float = 1.0,
        fake_weight: float = 1.0,
        inner_lr: float = 0.4,
        num_inner_steps: int = 1,
        num_inner_steps_test: int | None = None,
        first_order: bool = False,
        inner_loss_reduction: Literal["sum_over_shots", "mean"] = "sum_over_shots",
        generator_learning_rate: float = 1e-3,
        beta1: float = 0.5,
        beta2: float = 0.9,
        generator_width: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weights = Weights(real_weight, fake_weight)
        self.num_inner_steps = num_inner_steps
        self.num_inner_steps_test = num_inner_steps if num_inner_steps_test is None else num_inner_steps_test
        self.generator_learning_rate = generator_learning_rate
        self.betas = (beta1, beta2)
        self.discriminator: Discriminator
        if classifier == "maml":
            self.num_ways = num_ways
            learner = build_learner(backbone, image_shape, norm, num_ways, backbone_weights)
            inner_loop = inner_lr, first_order, inner_loss_reduction
            self.discriminator = AdaptedLearner(learner, norm, self.weights, *inner_loop)
        elif backbone == "conv4-maps":
            self.discriminator = RelationClassifier(image_shape, norm)
        else:
            raise InputError(
                f"--model.classifier relation_net compares feature maps, not those of {backbone}: "
                "pass --model.backbone conv4-maps"
            )
        sizes = _NUM_NOISE, 4 * generator_width, generator_width
        # DDP waits for the gradients of all that is trained.
        self.task_encoder = TaskEncoder(image_shape, generator_width).requires_grad_(self.is_game)
        self.generator = Generator(image_shape, pixel_range, *sizes).requires_grad_(self.is_game)

    @property
    def is_game(self) -> bool:
        """Whether generated images have any part in the losses."""
        return any(self.weights)

    # Training --------------------------------------------------------------------------------------------

    def training_losses(self, batch: Episode) -> dict[str, Tensor]:
        if not self.is_game:
            return super().training_losses(batch)
        noise = self.task_noise(batch.num_tasks, batch.support_x.shape[1] + batch.query_x.shape[1], _NUM_NOISE)
        noise = noise.to(batch.support_x)
        parts = _by_labels(batch, noise)
        rounds = [self._round(*part) for part in parts]
        real = torch.cat([real_losses(played.on_real) for played in rounds]).mean()
        fake = torch.cat([fake_losses(played.on_fakes) for played in rounds]).mean()
        generator = torch.cat([generator_losses(played.to_generator) for played in rounds]).mean()
        figures: dict[str, Tensor] = {}
        if parts[0].has_labels:
            queries, query_y = rounds[0].on_queries, parts[0].tasks.query_y
            figures = {"supervised_loss": self.query_loss(queries, query_y), **training_accuracy(queries, query_y)}
        discriminator = self.weights.total(figures.get("supervised_loss"), real, fake)
        # Each loss is a constant to the other player: one step on the sum is a step of both.
        figures |= {"loss": discriminator + generator, "discriminator_loss": discriminator}
        return {**figures, "generator_loss": generator, "real_loss": real, "fake_loss": fake}

    def _round(self, tasks: Episode, noise: Tensor, has_labels: bool) -> "_Round":
        """What D says of the images of tasks that all have labels, or all have none."""
        num_ways = self.checked_ways(tasks) if has_labels else 0
        unlabelled = [images for images in (tasks.support_u, tasks.query_u) if images is not None]

        def played(model: MetaGAN, x: Tensor, y: Tensor, query_x: Tensor, z: Tensor, *unlabelled: Tensor) -> "_Round":
            support_u, query_u = unlabelled or (None, None)
            code = model.task_encoder(x)
            z_support, z_query = z[: len(x)], z[len(x) :]
            support_fakes = model.generator(z_support, code).detach()
            support = SupportSet(x, y if has_labels else None, num_ways, support_u, support_fakes)
            fakes = model.generator(z_query, code)
            phi = model.discriminator.adapted(support, model.num_steps)
            return model._answers(phi, support, query_x, query_u, fakes)

        return _Round(*self.map_tasks(played, tasks.support_x, tasks.support_y, tasks.query_x, noise, *unlabelled))

    def _answers(
        self, phi: Parameters, support: SupportSet, query_x: Tensor, query_u: Tensor | None, fakes: Tensor
    ) -> "_Round":
        def said(parameters: Parameters, images: Tensor) -> Tensor:
            return self.discriminator.logits_at(parameters, support, images)

        constant = {name: value.detach() for name, value in phi.items()}
        on_fakes, to_generator = said(phi, fakes.detach()), said(constant, fakes)
        on_unlabelled = None if query_u is None else said(phi, query_u)
        on_queries = said(phi, query_x)  # the last pass, whose statistics norm ``running`` keeps
        return _Round(on_queries, on_queries if on_unlabelled is None else on_unlabelled, on_fakes, to_generator)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        players = [
            {"params": [*self.discriminator.parameters()], "lr": self.learning_rate},
            {
                "params": [*self.generator.parameters(), *self.task_encoder.parameters()],
                "lr": self.generator_learning_rate,
            },
        ]
        optimizer = torch.optim.Adam(players, betas=self.betas)
        return self.halving(optimizer) if self.lr_halve_every else optimizer

    # Evaluation ------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """How many steps a task is given now: in training, or else in validation and test."""
        return self.num_inner_steps if self.training else self.num_inner_steps_test

    def more_inputs(self, episode: Episode) -> tuple[Tensor, ...]:
        return () if episode.support_u is None else (episode.support_u,)

    def predictor(
        self, support_x: Tensor, support_y: Tensor, num_ways: int, support_u: Tensor | None = None
    ) -> Predictor:
        fakes = self.generated_images(support_x).detach() if self.is_game else None
        support = SupportSet(support_x, support_y, num_ways, support_u, fakes)
        return partial(self.discriminator.logits_at, self.discriminator.adapted(support, self.num_steps), support)

    def query_logits(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int, support_u: Tensor | None = None
    ) -> Tensor:
        return self.predictor(support_x, support_y, num_ways, support_u)(query_x)

    def encode(self, images: Tensor) -> Tensor:
        """The features [n, D] of images [n, C, H, W] in D, which pass in one batch, before any adaptation."""
        return self.discriminator.features(images)

    def generated_images(self, support_x: Tensor) -> Tensor:
        """Images [N*K, C, H, W] that G draws for a task with the support [N*K, C, H, W], from the same noise always."""
        images: Tensor = self.generator(
            fixed_normal_noise("MetaGAN", len(support_x), _NUM_NOISE).to(support_x), self.task_encoder(support_x)
        )
        return images


class _Part(NamedTuple):
    """Tasks that all have labels, or all have none."""

    tasks: Episode
    noise: Tensor  # [T, N*K + N*Q, Z]
    has_labels: bool


def _by_labels(batch: Episode, noise: Tensor) -> list[_Part]:
    """The tasks of a batch that have labels, if any, and then those that have none, if any."""
    parts = []
    for has_labels in (True, False):
        some = [task for task, is_labelled in enumerate(batch.is_labelled) if is_labelled == has_labels]
        if len(some) == batch.num_tasks:
            return [_Part(batch, noise, has_labels)]
        if some:
            parts.append(_Part(batch.tasks(some), rows(noise, some), has_labels))
    return parts


class _Round(NamedTuple):
    """D's logits for the images of a task, or with a leading T of several."""

    on_queries: Tensor  # [N*Q, N]
    on_real: Tensor  # [U, N]; the queries where nothing is unlabelled
    on_fakes: Tensor  # [N*Q, N], of D; generated images are constants
    to_generator: Tensor  # [N*Q, N], of G; D is a constant
