"""MetaGAN (Zhang, Che, Ghahramani, Bengio, Song 2018)."""

from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from fewshot_pl.algorithms.arguments import at_least, check_precision
from fewshot_pl.algorithms.base import FewShotAlgorithm, QueryPredictor
from fewshot_pl.algorithms.discriminators import AdaptedLearner, Discriminator, RelationClassifier, SupportSet, Weights
from fewshot_pl.algorithms.game import Part, QuerySet, Round, by_labels, mean_over_tasks
from fewshot_pl.backbones import ImageShape, Norm, build_learner
from fewshot_pl.backbones.generator import Generator, ImageRange, TaskEncoder
from fewshot_pl.backbones.normalization import set_norm_eps
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.adversarial import fake_losses, generator_losses, real_losses
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.noise import fixed_normal_noise
from fewshot_pl.functional.sent import sent
from fewshot_pl.metrics import training_accuracy

_NUM_NOISE = 100


class MetaGAN(FewShotAlgorithm):
    """Sharpen a few-shot classifier D by having it tell real images from those that a generator G draws for each task.

    D has an additional class, "generated". With its N logits l, and 0 for that class:

        L_D = CE(l(x), y) on labelled + softplus(-LSE l(x)) on unlabelled + softplus(+LSE l(x)) on generated images
        L_G = softplus(-LSE l(x)) on generated images

    where LSE is log-sum-exp over the N classes. G draws from noise and from the mean encoding of the support by an
    encoder E. Learned: D, G and E. With classifier ``maml``, D adapts to a task by gradient steps on L_D of the
    support, as many generated images, and the unlabelled images (if there are none, the support again). L_D and L_G are
    then those of the adapted D on the queries and as many other generated images. With ``relation_net`` D is a
    Relation Network, nothing is adapted, and unlabelled support images are not used. At test D adapts in the same way,
    and classifies by the N logits alone.

    A training task without labels has no cross-entropy; a Relation Network then counts each of its support images as a
    separate class. The loss of a step is the mean over all its tasks.

    There is no code by the authors. Our choices: both players step at the same time, G on the non-saturating loss;
    generated images of the inner loop, and in L_G the adapted D, are constants to G; real and generated images pass
    through D separately, as batch norm would tell them apart in one batch; E and G are plain networks
    (``backbones/generator.py``), and G's tanh is scaled to the range of the real images, which are left as they are.
    Differs from Relation Networks: cross-entropy in place of their squared error.

    Args:
        num_ways: N; for ``maml`` also the number of outputs of the head, so training and test have the same N.
        image_shape: (C, H, W) of the images.
        pixel_range: lowest and highest value of the images, per channel or for all channels.
        classifier: D, ``maml`` or ``relation_net``.
        backbone: name of D's backbone, see ``build_backbone``; for ``relation_net`` it must be ``conv4-maps``.
        backbone_weights: pre-trained weights of a ``timm/...`` backbone: a file, or ``pretrained``.
        norm: where D's batch norm takes its statistics from; E and G have none.
        norm_eps: added to the variance by D's batch norm; default as in the backbone, mostly 1e-5; 1e-3 in MAML's code.
        real_weight: weight of the loss on unlabelled images; if both weights are 0, D trains as usual, without a game.
        fake_weight: weight of the loss on generated images.
        inner_lr: learning rate of the inner loop; this and the next four arguments are for ``maml`` only.
        num_inner_steps: steps on the support in training.
        num_inner_steps_test: steps in validation and test; default as in training.
        first_order: treat inner gradients as constants.
        inner_loss_reduction: L_D in the inner loop is the ``mean`` over images, or N times that
            (``sum_over_shots``, see MAML).
        learning_rate: learning rate of D.
        generator_learning_rate: learning rate of G and E.
        beta1: beta1 of Adam, for both players.
        beta2: beta2 of Adam, for both players.
        generator_width: channels of E's first two and G's last hidden layer; the others have two or four times as many.
        max_gradient_norm: scale D's gradient (with ``relation_net``, f's and the head's each) down to this norm in
            training, before ``--trainer.gradient_clip_val`` applies; 0 turns this off. Relation Networks' code has 0.5.
    """

    argument_ranges = (
        at_least(1, "num_ways", "generator_width")
        | at_least(0, "real_weight", "fake_weight", "inner_lr", "num_inner_steps", "num_inner_steps_test")
        | at_least(0, "generator_learning_rate", "max_gradient_norm")
    )

    def __init__(
        self,
        num_ways: int = 5,
        image_shape: ImageShape = (1, 28, 28),
        pixel_range: ImageRange = ((0.0,), (1.0,)),
        classifier: Literal["maml", "relation_net"] = "maml",
        backbone: str = "conv4",
        backbone_weights: str | None = None,
        norm: Norm = "transductive",
        norm_eps: float | None = None,
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
        max_gradient_norm: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.weights = Weights(real_weight, fake_weight)
        self.num_inner_steps = num_inner_steps
        self.num_inner_steps_test = num_inner_steps if num_inner_steps_test is None else num_inner_steps_test
        self.generator_learning_rate = generator_learning_rate
        self.betas = (beta1, beta2)
        self.max_gradient_norm = max_gradient_norm
        self.discriminator: Discriminator
        own = self._named_backbone(image_shape)
        if classifier == "maml":
            self.num_ways = num_ways
            learner = build_learner(backbone, image_shape, norm, num_ways, backbone_weights, own)
            inner_loop = inner_lr, first_order, inner_loss_reduction
            self.discriminator = AdaptedLearner(learner, norm, self.weights, *inner_loop)
        elif backbone == "conv4-maps" and own is None:
            self.discriminator = RelationClassifier(image_shape, norm)
        else:
            raise InputError(
                f"--model.classifier relation_net compares feature maps, not those of {self.hparams['backbone']}: "
                "pass --model.backbone conv4-maps"
            )
        set_norm_eps(self.discriminator, norm_eps)
        sizes = _NUM_NOISE, 4 * generator_width, generator_width
        # DDP waits for the gradients of all trainable parameters.
        self.task_encoder = TaskEncoder(image_shape, generator_width).requires_grad_(self.is_game)
        self.generator = Generator(image_shape, pixel_range, *sizes).requires_grad_(self.is_game)

    def setup(self, stage: str) -> None:
        if isinstance(self.discriminator, AdaptedLearner):
            check_precision("MetaGAN on MAML", str(self.trainer.precision))
        super().setup(stage)

    @property
    def is_game(self) -> bool:
        """Whether generated images take part in the losses."""
        return any(self.weights)

    # Training --------------------------------------------------------------------------------------------

    def training_losses(self, batch: Episode) -> dict[str, Tensor]:
        if not self.is_game:
            return super().training_losses(batch)
        noise = self.task_noise(batch.num_tasks, batch.support_x.shape[1] + batch.query_x.shape[1], _NUM_NOISE)
        noise = noise.to(batch.support_x)
        parts = by_labels(batch, noise)
        accumulates = self.accumulates_task_gradients(batch)
        rounds = [self._round(part, accumulates) for part in parts]
        names = "loss", "discriminator_loss", "generator_loss", "real_loss", "fake_loss"
        figures = {name: mean_over_tasks(name, parts, rounds) for name in names}
        if parts[0].has_labels:
            figures["supervised_loss"] = rounds[0].supervised_loss.mean()
            figures |= training_accuracy(rounds[0].on_queries, parts[0].tasks.query_y)
        return figures

    def _round(self, part: Part, accumulates: bool) -> Round:
        """The results of tasks that all have labels, or all have none."""
        tasks, noise, has_labels, _ = part
        num_ways = self.checked_ways(tasks) if has_labels else 0
        unlabelled = [images for images in (tasks.support_u, tasks.query_u) if images is not None]

        def played(
            model: MetaGAN, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor, z: Tensor, *unlabelled: Tensor
        ) -> Round:
            support_u, query_u = unlabelled or (None, None)
            code = model.task_encoder(x)
            z_support, z_query = z[: len(x)], z[len(x) :]
            support_fakes = model.generator(z_support, code).detach()
            support = SupportSet(x, y if has_labels else None, num_ways, support_u, support_fakes)
            queries = QuerySet(query_x, query_y if has_labels else None, query_u, model.generator(z_query, code))
            return model._played(support, queries)

        return Round(*self.map_tasks(played, *tasks[:4], noise, *unlabelled, loss_first=accumulates))

    def _played(self, support: SupportSet, queries: QuerySet) -> Round:
        """The results of one task."""
        phi = self.discriminator.adapted(support, self.num_steps)

        def said(parameters: Parameters, images: Tensor) -> Tensor:
            return self.discriminator.logits_at(parameters, support, images)

        constant = {name: value.detach() for name, value in phi.items()}
        fake_loss = fake_losses(said(phi, queries.fakes.detach())).mean()
        generator_loss = generator_losses(said(constant, queries.fakes)).mean()
        on_unlabelled = None if queries.unlabelled is None else said(phi, queries.unlabelled)
        on_queries = said(phi, queries.x)  # the last pass, whose statistics norm ``running`` keeps
        real_loss = real_losses(on_queries if on_unlabelled is None else on_unlabelled).mean()
        supervised_loss = None if queries.y is None else self.query_loss(on_queries[None], queries.y[None])
        discriminator_loss = self.weights.total(supervised_loss, real_loss, fake_loss)
        # Each loss is a constant to the other player, so one step on the sum is a step of both.
        loss = discriminator_loss + generator_loss
        told = torch.zeros_like(loss) if supervised_loss is None else supervised_loss
        return Round(loss, discriminator_loss, generator_loss, real_loss, fake_loss, told, on_queries)

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

    def clipped_networks(self) -> list[nn.Module]:
        return self.discriminator.networks()

    # Evaluation ------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """The number of steps on a task in the current mode: training, or validation and test."""
        return self.num_inner_steps if self.training else self.num_inner_steps_test

    def more_inputs(self, episode: Episode) -> tuple[Tensor, ...]:
        return () if episode.support_u is None else (episode.support_u,)

    def predictor(
        self, support_x: Tensor, support_y: Tensor, num_ways: int, support_u: Tensor | None = None
    ) -> QueryPredictor:
        fakes = self.generated_images(support_x).detach() if self.is_game else None
        support = SupportSet(support_x, support_y, num_ways, support_u, fakes)
        return partial(self.discriminator.logits_at, self.discriminator.adapted(support, self.num_steps), support)

    def query_logits(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int, support_u: Tensor | None = None
    ) -> Tensor:
        return self.predictor(support_x, support_y, num_ways, support_u)(query_x)

    def encode(self, images: Tensor) -> Tensor:
        """D's features [n, D] of images [n, C, H, W], which pass in one batch, before any adaptation."""
        features = self.discriminator.features(images)
        self.update_running_statistics()
        return features

    def generated_images(self, support_x: Tensor) -> Tensor:
        """Images [N*K, C, H, W] that G draws for a task with the support [N*K, C, H, W], always from the same noise."""
        noise = sent(fixed_normal_noise("MetaGAN", len(support_x), _NUM_NOISE), support_x.device).to(support_x.dtype)
        images: Tensor = self.generator(noise, self.task_encoder(support_x))
        return images
