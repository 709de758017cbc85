"""FewShotAlgorithm: what all algorithms share; each algorithm itself is written for one task."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from fewshot_pl.algorithms.arguments import Ranges, at_least, check_arguments
from fewshot_pl.algorithms.episode_measuring import EpisodeMeasuring
from fewshot_pl.algorithms.lightning_callbacks import check_trained, leave_out_frozen, warn_of_stale_statistics
from fewshot_pl.algorithms.step_seeds import StepSeeds
from fewshot_pl.algorithms.stored import Stored
from fewshot_pl.algorithms.task_mapping import TaskMapping, TaskParallel
from fewshot_pl.backbones import ImageShape
from fewshot_pl.backbones.normalization import other_batch_norms
from fewshot_pl.episode import Episode, check_episode, check_support
from fewshot_pl.errors import InputError
from fewshot_pl.functional.objectives import prediction_loss
from fewshot_pl.functional.precision import at_least_float32
from fewshot_pl.metrics import EpisodeMeasures, training_accuracy
from fewshot_pl.plain_arguments import PlainArguments
from fewshot_pl.step_log import StepLog

QueryPredictor = Callable[[Tensor], Tensor]  # one task's queries [n, C, H, W] to logits [n, N]


class FewShotAlgorithm(PlainArguments, Stored, EpisodeMeasuring, TaskMapping, StepSeeds, ABC):
    """Base of the algorithms: maps one-task functions over tasks, and owns the steps, metrics and optimiser.

    Args:
        learning_rate: learning rate of Adam, which trains all learned parameters.
        lr_halve_every: training steps per halving of the learning rate; 0 keeps it constant.
        task_parallel: map over tasks by a ``loop``, a loop on several ``threads``, ``vmap``, ``side_by_side`` (only in
            training steps of MAML and Reptile: as groups of channels of one network), or ``auto``. ``auto`` uses vmap
            for most features and on CUDA, except to train task by task; threads to evaluate images of more than
            one pixel; and otherwise a loop. MAML and Reptile may instead adapt several tasks side by side. On a CPU,
            methods that adapt Conv4 train on two tasks at a time, and MAML on two such groups.
        task_chunk: number of tasks taken at once, to bound memory (not of training with 16-mixed). Default: all by vmap
            and ``side_by_side``; at most 8 on threads (as many as torch has; 2 if ``auto`` trains), and side by side
            by ``auto`` on a CPU (one or two groups of as many as the caches hold).
        compile: compile what training does with a task by torch.compile, which takes a minute or more at first; if it
            fails, training goes on without it and warns.
    """

    # Of the arguments of this class; a subclass states those of its own.
    argument_ranges: ClassVar[Ranges] = at_least(0, "learning_rate", "lr_halve_every") | at_least(1, "task_chunk")
    num_ways: int | None = None  # set by algorithms whose head has a fixed number of outputs
    max_gradient_norm = 0.0  # set by algorithms whose paper clips; applied before --trainer.gradient_clip_val
    regresses = False  # whether targets may be real numbers
    takes_side_by_side = False  # whether task_parallel side_by_side is supported
    carries_statistics = False  # whether norm episode is supported: the algorithm must hold a task's statistics

    def __init__(
        self,
        learning_rate: float = 1e-3,
        lr_halve_every: int = 0,
        task_parallel: TaskParallel = "auto",
        task_chunk: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(task_parallel, task_chunk, compile)
        self.save_hyperparameters()  # the subclass's too, so a checkpoint is self-contained
        check_arguments(type(self), self.given_arguments, self.carries_statistics, self.takes_side_by_side)
        self.learning_rate = learning_rate
        self.lr_halve_every = lr_halve_every
        self._step_log = StepLog()
        self.measures = nn.ModuleDict({"val": EpisodeMeasures(), "test": EpisodeMeasures()})

    # What an algorithm implements --------------------------------------------------------------------

    @abstractmethod
    def query_logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        """The logits [N*Q, N] of one task's queries; in regression the predictions [N*Q, D].

        Args:
            support_x: [N*K, C, H, W].
            support_y: [N*K], 0..N-1; in regression [N*K, D].
            query_x: [N*Q, C, H, W].
            num_ways: N; in regression D.
        """

    def own_backbone(self, image_shape: ImageShape) -> nn.Module | None:
        """The network that a subclass provides instead of the one that ``backbone`` names; None keeps the latter.

        It maps images [n, C, H, W] to features [n, D]. It keeps its initial weights, and its ``nn.BatchNorm2d``
        layers are replaced by those of the norm mode. ``given_arguments`` already holds the arguments.

        Args:
            image_shape: (C, H, W).
        """
        return None

    def predictor(self, support_x: Tensor, support_y: Tensor, num_ways: int) -> QueryPredictor:
        """A function from queries [n, C, H, W] to their logits [n, N], for one task's support.

        It may be called repeatedly; subclasses process the support only once where they can. That each class has a
        support image is not checked.
        """
        return lambda query_x: self.query_logits(support_x, support_y, query_x, num_ways)

    def training_losses(self, batch: Episode) -> dict[str, Tensor]:
        """The scalars to log, by name; ``loss`` is the one that is minimised."""
        loss, outputs = (
            self._accumulated_losses(batch) if self.accumulates_task_gradients(batch) else self._joint_losses(batch)
        )
        return {"loss": loss, **training_accuracy(outputs, batch.query_y)}

    def query_loss(self, logits: Tensor, query_y: Tensor) -> Tensor:
        """The mean loss of logits [T, N*Q, N] for labels [T, N*Q], in training and evaluation; -100 is left out.

        In regression, the mean squared error of predictions [T, N*Q, D] for targets [T, N*Q, D].
        """
        return prediction_loss(logits, query_y)

    def class_log_probabilities(self, logits: Tensor) -> Tensor:
        """The log-probabilities [..., N] of the classes, from logits [..., N]."""
        return F.log_softmax(at_least_float32(logits), -1)

    def adaptation_curve(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        """The query outputs [S+1, N*Q, N] of one task before its adaptation and after each of the S steps.

        Methods without steps return the final outputs only.
        """
        return self.query_logits(support_x, support_y, query_x, num_ways)[None]

    def checked_ways(self, episode: Episode) -> int:
        """The number of ways N of an Episode.

        Raises:
            InputError: the algorithm cannot take tasks of this number of classes, of regression, or without labels; or
                a class has no support image, which is checked only if the number of ways is not known.
        """
        if episode.is_regression and not self.regresses:
            raise InputError(f"{type(self).__name__} only classifies: use MAML, or another algorithm that takes steps")
        if not all(episode.is_labelled):
            raise InputError(
                f"{type(self).__name__} cannot use tasks without labels: leave out --data.unlabelled_tasks, "
                "or train MetaGAN"
            )
        self.check_ways(num_ways := episode.num_ways)
        check_support(episode)
        return num_ways

    def check_ways(self, num_ways: int, model: str | None = None, flag: str = "--data.num_ways") -> None:
        """Raise InputError if the algorithm cannot take tasks of ``num_ways`` classes, as set by ``flag``.

        ``model`` is its name in the message.
        """
        if self.num_ways not in (None, num_ways):
            raise InputError(
                f"{model or f'this {type(self).__name__}'} has a head of {self.num_ways} outputs and cannot take "
                f"{num_ways}-way tasks: pass {flag} {self.num_ways}, or train with --data.num_ways {num_ways}"
            )

    @property
    def norm_mode(self) -> str:
        """Where normalisation takes its statistics from, stated with every result."""
        return "the network's own" if other_batch_norms(self) else str(self.hparams.get("norm", "none"))

    def _named_backbone(self, image_shape: ImageShape) -> nn.Module | None:
        """``own_backbone``, which results name by its class."""
        if (own := self.own_backbone(image_shape)) is not None:
            self.hparams["backbone"] = type(own).__name__
        return own

    # Mapping over tasks ------------------------------------------------------------------------------

    def forward(self, episode: Episode) -> Tensor:
        """The query logits [T, N*Q, N] of T tasks."""
        num_ways = self.checked_ways(episode)

        def task_logits(
            model: FewShotAlgorithm, support_x: Tensor, support_y: Tensor, query_x: Tensor, *more: Tensor
        ) -> Tensor:
            return model.query_logits(support_x, support_y, query_x, num_ways, *more)

        inputs = episode.support_x, episode.support_y, episode.query_x, *self.more_inputs(episode)
        return self.map_tasks(task_logits, *inputs)[0]

    def more_inputs(self, episode: Episode) -> tuple[Tensor, ...]:
        """Further tensors [T, ...] of an Episode that ``query_logits`` takes after the number of ways."""
        return ()

    def _joint_losses(self, batch: Episode) -> tuple[Tensor, Tensor]:
        """The mean loss [] and the outputs [T, N*Q, N] of T tasks."""
        outputs = self(batch)
        return self.query_loss(outputs, batch.query_y), outputs

    def _accumulated_losses(self, batch: Episode) -> tuple[Tensor, Tensor]:
        """The same, taking the gradients of some tasks before the next ones, so memory holds one part at a time."""
        num_ways = self.checked_ways(batch)

        def task_loss(model: FewShotAlgorithm, *task: Tensor) -> tuple[Tensor, Tensor]:
            support_x, support_y, query_x, query_y, *more = task
            outputs = model.query_logits(support_x, support_y, query_x, num_ways, *more)
            return model.query_loss(outputs[None], query_y[None]), outputs

        inputs = *batch[:4], *self.more_inputs(batch)
        loss, outputs = self.map_tasks(task_loss, *inputs, loss_first=True)
        return loss, outputs

    # Lightning's hooks -------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        self._step_log = StepLog()  # the old one keeps figures of an earlier training
        leave_out_frozen(self.trainer)
        warn_of_stale_statistics(self, self.trainer)

    def training_step(self, batch: Episode, batch_idx: int) -> dict[str, Tensor]:
        check_episode(batch)
        check_trained(self)
        losses = self.training_losses(batch)
        self._step_log.log(self, losses, batch.num_tasks)
        return losses

    def on_train_batch_end(self, outputs: Any, batch: Episode, batch_idx: int) -> None:
        self._step_log.log_last(self, batch.num_tasks)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        return self.halving(optimizer) if self.lr_halve_every else optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.max_gradient_norm:
            for network in self.clipped_networks():
                nn.utils.clip_grad_norm_(network.parameters(), self.max_gradient_norm)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clipped_networks(self) -> list[nn.Module]:
        """The networks whose gradients are each scaled down to ``max_gradient_norm``."""
        return [self]

    def halving(self, optimizer: torch.optim.Optimizer) -> OptimizerLRScheduler:
        """The optimiser with its learning rate halved every ``lr_halve_every`` training steps."""
        halving = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_halve_every, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halving, "interval": "step"}}
