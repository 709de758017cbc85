"""Reptile (Nichol, Achiam, Schulman 2018)."""

from functools import partial
from random import Random
from typing import Any, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.func import functional_call

from fewshot_pl.algorithms.adaptation import learner_gradient
from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.gradient import GradientAlgorithm
from fewshot_pl.algorithms.side_by_side import in_groups, pass_side_by_side
from fewshot_pl.all_processes import mean_over_processes
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_adam import AdamState, MeanState, adam_step, sgd_step
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.mini_batches import descended, items_at, mini_batches
from fewshot_pl.functional.objectives import prediction_loss
from fewshot_pl.functional.sent import sent
from fewshot_pl.metrics import episode_accuracy

_STEPS = {"adam": adam_step, "sgd": sgd_step}


class Reptile(GradientAlgorithm):
    """Learn weights that lie near the solutions of all tasks: move them towards where training on a task leads.

    phi = theta after ``num_inner_steps`` of Adam with beta1 = 0 on mini-batches of a task, drawn without replacement;
    theta <- theta + eps * mean over tasks of (phi - theta) (algorithm 2). That is a step of gradient descent on
    loss = 1/2 |theta - phi|^2 with phi a constant, so clipping, accumulation and several devices work as usual.
    Learned: theta, including batch norm's scale and shift. Adapted: a copy of all of theta.

    A training task has no queries: it trains on its support and query images together, which are
    ``train_num_shots + train_num_queries`` images per class. They should be more than the shots of the test (appendix
    A: 10 or 15), or a 1-shot task would repeat one batch.

    As in the authors' code, Adam's second moment carries over from task to task, in training only: a checkpoint holds
    it, and each task of an evaluation starts from it. Differs from their code: all tasks of an outer step start from
    the same second moment, and the mean of their final ones is kept (``sequential`` is the code's way); Adam's epsilon
    is added as in the Adam paper; batch norm's is by default 1e-5, not 1e-3 (``norm_eps``).

    Tasks take their steps side by side as in ``MAML``.

    Args:
        per_query: classify each query in a separate batch with the whole support, as in the paper's results without
            transduction; affects only norm ``transductive``, as in other norms queries never influence each other.
        inner_optimizer: ``adam``, or plain ``sgd``, which the paper's analysis is about (section 5).
        inner_lr: learning rate of the inner optimiser.
        inner_batch_size: images per inner step in training.
        num_inner_steps_test: inner steps in validation and test.
        inner_batch_size_test: images per inner step in validation and test.
        inner_loss_reduction: the inner loss is the cross-entropy's ``sum`` over a mini-batch, as in the authors' code,
            or its ``mean``; to Adam this matters only if the two batch sizes differ.
        sequential: the tasks on a device update Adam's second moment in turn; they are then not mapped together.
        learning_rate: eps of the first outer step; it falls linearly to 0 over all training steps, or is halved every
            ``lr_halve_every`` steps if that is not 0.
    """

    argument_ranges = at_least(1, "inner_batch_size", "inner_batch_size_test") | at_least(0, "inner_lr")
    takes_side_by_side = True
    inner_total_weight: Tensor  # []
    inner_second_moment: Tensor  # [P]

    def __init__(
        self,
        backbone: str = "conv4-strided-flat",
        per_query: bool = False,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
        inner_lr: float = 1e-3,
        inner_batch_size: int = 10,
        num_inner_steps: int = 5,
        inner_batch_size_test: int = 5,
        num_inner_steps_test: int = 50,
        inner_loss_reduction: Literal["sum", "mean"] = "sum",
        sequential: bool = False,
        learning_rate: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            backbone=backbone,
            num_inner_steps=num_inner_steps,
            num_inner_steps_test=num_inner_steps_test,
            learning_rate=learning_rate,
            **kwargs,
        )
        if num_inner_steps < 1:
            raise InputError("Reptile follows inner steps: --model.num_inner_steps must be at least 1")
        self.per_query = per_query and self.norm == "transductive"
        self.inner_step = _STEPS[inner_optimizer]
        self.inner_lr = inner_lr
        self.inner_batch_size = inner_batch_size
        self.inner_batch_size_test = inner_batch_size_test
        self.inner_loss_reduction = inner_loss_reduction
        self.sequential = sequential
        self.register_buffer("inner_total_weight", torch.zeros(()))
        self.register_buffer("inner_second_moment", torch.zeros_like(self.learner.point().detach()))
        self._left = MeanState()  # over the tasks since the last outer step
        self.check_side_by_side()

    # Training: theta towards phi ---------------------------------------------------------------------

    def training_losses(self, batch: Episode) -> dict[str, Tensor]:
        self.checked_ways(batch)
        images = torch.cat([batch.support_x, batch.query_x], 1)  # [T, N*(K+Q), C, H, W]
        labels = torch.cat([batch.support_y, batch.query_y], 1)
        inputs = images, labels, sent(self._shuffled(*labels.shape[:2]), labels.device)
        phi, figures = in_groups(self._trained_on, inputs, 1 if self.sequential else batch.num_tasks)
        loss = (self.learner.point() - phi).square().sum(1).mean() / 2
        # In regression there is no second figure.
        return {"loss": loss, **dict(zip(("inner_loss", "accuracy"), figures.mean(0), strict=False))}

    def _trained_on(self, images: Tensor, labels: Tensor, batches: Tensor) -> tuple[Tensor, Tensor]:
        """phi [T, P] of the tasks, and the mean loss and accuracy [T, 2] on mini-batches before the steps on them.

        In regression there is no accuracy: [T, 1].
        """
        start = (self.sequential and self._left.state) or self._inner_state()

        def trained(model: Reptile, images: Tensor, labels: Tensor, batches: Tensor) -> tuple[Tensor, ...]:
            phi, state, figures = model._descended(images, labels, batches, start)
            if model.norm == "running":  # a plain pass, as statistics observed in torch.func.grad stay there
                with torch.no_grad():
                    functional_call(model.learner, model.learner.parameters_at(phi), (images[batches[-1]],))
            group = phi.shape[:-1]  # [G], or [] for one task
            mean_figures = torch.stack(figures).mean(0).expand(*group, -1)
            return phi, state.total_weight.expand(*group, 1), state.second_moment.expand_as(phi), mean_figures

        inputs = images, labels, batches
        if (num_together := self.num_side_by_side(images[0, : batches.shape[-1]], len(images))) == 1:
            found = self.map_tasks(trained, *inputs)
        else:
            found = in_groups(partial(trained, self), inputs, num_together)
        phi, total_weights, second_moments, figures = found
        if self.sequential:
            self._left = MeanState()  # keeps the last task only
        self._left.add(total_weights[0, 0], second_moments)
        return phi, figures

    def _shuffled(self, num_tasks: int, num_images: int) -> Tensor:
        """The mini-batches [T, S, B] of training tasks."""
        size = self.inner_batch_size, self.num_inner_steps
        return torch.stack([mini_batches(num_images, *size, Random(seed)) for seed in self.task_seeds(num_tasks)])

    def on_train_start(self) -> None:
        self._left = MeanState()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.update_inner_state()

    def update_inner_state(self) -> None:
        """Set Adam's state to its mean, over tasks and devices, after the tasks since the last outer step.

        Lightning calls this before each outer step, through a hook; your own training loop must call it itself.
        """
        if self._left.state is None:
            return
        total_weight, second_moment = self._left.state
        if self._trainer is not None:
            second_moment = mean_over_processes(second_moment, self.trainer)
        self.inner_total_weight.copy_(total_weight)
        self.inner_second_moment.copy_(second_moment)
        self._left = MeanState()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.learning_rate)
        if self.lr_halve_every:
            return self.halving(optimizer)
        num_steps = self.trainer.estimated_stepping_batches
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    @property
    def adapts_side_by_side(self) -> bool:
        return type(self) is Reptile and self.passes_side_by_side and not self.sequential

    # Evaluation ----------------------------------------------------------------------------------------

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        batches = self._mini_batches(support_x, num_steps)
        return self.learner.parameters_at(self._descended(support_x, support_y, batches, self._inner_state())[0])

    def adapted_side_by_side(self, support_x: Tensor, support_y: Tensor) -> Parameters:
        return self.adapted(support_x, support_y, self.num_steps)

    def images_of_a_step(self, support_x: Tensor) -> Tensor:
        return support_x[: self.inner_batch_size_test]

    def _mini_batches(self, images: Tensor, num_steps: int) -> Tensor:
        """The mini-batches [..., S, B] of images [..., n, C, H, W] in validation and test."""
        *group, num_images = images.shape[:-3]
        # The same numbers for every task: its images are in random order anyway, and no other task can affect them.
        batches = mini_batches(num_images, self.inner_batch_size_test, num_steps, Random(0))
        return sent(batches, images.device).expand(*group, -1, -1)

    def adaptation_curve(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        points, state = [self.learner.point().detach()], self._inner_state()
        for batch in self._mini_batches(support_x, self.num_steps):
            point, state, _ = self._descended(support_x, support_y, batch[None], state, points[-1])
            points.append(point)
        path = [self.learner.parameters_at(point) for point in points]
        return torch.stack([self.logits_at(parameters, support_x, query_x) for parameters in path])

    def logits_at(self, parameters: Parameters, support_x: Tensor, query_x: Tensor) -> Tensor:
        if not self.per_query:
            return super().logits_at(parameters, support_x, query_x)
        batches = [torch.cat([support_x, query[None]]) for query in query_x]
        return torch.stack([functional_call(self.learner, parameters, (batch,))[-1] for batch in batches])

    @property
    def norm_mode(self) -> str:
        return "transductive, per query" if self.per_query else super().norm_mode

    # The inner loop ------------------------------------------------------------------------------------

    def _descended(
        self, images: Tensor, labels: Tensor, batches: Tensor, state: AdamState, start: Tensor | None = None
    ) -> tuple[Tensor, AdamState, list[Tensor]]:
        """phi [P] after steps on mini-batches [S, B] of a task, Adam's last state, and loss and accuracy [2] of each.

        Steps start from ``start`` [P], by default theta. For G tasks side by side, with images [G, n, C, H, W],
        mini-batches [G, S, B] and so on, phi is [G, P], and the figures [2] are means over tasks.
        """
        start = (self.learner.point().detach() if start is None else start).expand(*batches.shape[:-2], -1)
        passed = functional_call if start.ndim == 1 else pass_side_by_side

        def batch_loss(parameters: Parameters, batch: Tensor) -> tuple[Tensor, Tensor]:
            targets = items_at(labels, batch)
            outputs = passed(self.learner, parameters, (items_at(images, batch),))
            mean = prediction_loss(outputs, targets)
            num_summed = batch.numel() if self.inner_loss_reduction == "sum" else batch[..., 0].numel()
            figures = [mean]
            if not targets.is_floating_point():
                figures.append(episode_accuracy(outputs.detach(), targets).to(mean.dtype).mean())
            return mean * num_summed, torch.stack(figures)

        def gradient_at(point: Tensor, batch: Tensor) -> tuple[Tensor, ...]:
            return learner_gradient(self.learner, partial(batch_loss, batch=batch), point)

        def step(point: Tensor, gradient: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
            return self.inner_step(point, gradient, state, self.inner_lr)

        return descended(gradient_at, start, batches.movedim(-2, 0), step, state)

    def _inner_state(self) -> AdamState:
        return AdamState(self.inner_total_weight, self.inner_second_moment)
