"""Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017)."""

from typing import Any, Literal

from torch import Tensor
from torch.func import functional_call

from fewshot_pl.algorithms.adaptation import adapted_learner, check_recomputable
from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.gradient import GradientAlgorithm
from fewshot_pl.algorithms.side_by_side import (
    Grouping,
    TaskLoss,
    images_side_by_side,
    losses_in_groups,
    outputs_of_each,
    repeated,
    summed,
)
from fewshot_pl.algorithms.task_map import trained_parameters
from fewshot_pl.episode import Episode
from fewshot_pl.functional.inner_loop import Parameters, Rate
from fewshot_pl.functional.objectives import prediction_loss


class MAML(GradientAlgorithm):
    """Learn weights from which a few gradient steps on the support solve a task.

    phi = theta - alpha grad_theta L(theta; support), ``num_inner_steps`` times; theta is trained by Adam on
    L(phi; query) through those steps (section 2.2, algorithm 2). Learned: theta, including batch norm's scale and
    shift. Adapted: a copy of all of theta.

    Differs from the paper's code: batch norm's scale and shift are adapted too (the code has no scale and does not
    adapt the shift), its epsilon is by default 1e-5, not 1e-3 (``norm_eps``), and the head of a convolutional
    network starts from Xavier's distribution on every benchmark.

    With ``task_parallel`` auto on a CPU, tasks with a small support adapt side by side in training and evaluation; two
    groups of such tasks, or two other tasks, train at a time. On a GPU, and with ``side_by_side``, all tasks of a
    training step adapt side by side, or ``task_chunk`` at a time; on a GPU their queries pass so too.

    Args:
        inner_lr: alpha, the learning rate of the inner loop.
        first_order: treat inner gradients as constants (first-order MAML, section 5.2).
        inner_loss_reduction: the inner loss is the cross-entropy summed over the support and divided by the shots
            (``sum_over_shots``, as in the paper's code; ``inner_lr`` = 0.4 assumes this) or its ``mean``, N times
            smaller. In regression both are the mean squared error.
        recompute_inner_steps: recompute each inner step in the backward pass instead of keeping its intermediate
            results; memory no longer grows by a network's activations with each step, but steps take longer.
    """

    argument_ranges = at_least(0, "inner_lr")
    takes_side_by_side = True

    def __init__(
        self,
        inner_lr: float = 0.4,
        first_order: bool = False,
        inner_loss_reduction: Literal["sum_over_shots", "mean"] = "sum_over_shots",
        recompute_inner_steps: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inner_lr: Rate = inner_lr
        self.first_order = first_order
        self.inner_loss_reduction = inner_loss_reduction
        self.recompute_inner_steps = recompute_inner_steps
        self.check_side_by_side()
        if recompute_inner_steps:
            check_recomputable(self.learner, self.hparams["backbone"])

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        return self.adapted_from(dict(self.learner.named_parameters()), support_x, support_y, num_steps)

    def adapted_from(self, parameters: Parameters, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        """The parameters after ``num_steps`` steps on one task's support; those not given stay the learner's own."""
        return self._descended(self.inner_loss, parameters, support_x, support_y, num_steps)

    def adapted_side_by_side(self, support_x: Tensor, support_y: Tensor) -> Parameters:
        parameters = repeated(dict(self.learner.named_parameters()), len(support_x))
        images = images_side_by_side(support_x)
        return self._descended(summed(self.inner_loss), parameters, images, support_y, self.num_steps)

    def _descended(
        self, inner_loss: TaskLoss, parameters: Parameters, images: Tensor, targets: Tensor, num_steps: int
    ) -> Parameters:
        def support_loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
            return inner_loss(functional_call(self.learner, parameters, (x,)), y)

        return adapted_learner(
            self.learner,
            support_loss,
            parameters,
            self.rates,
            num_steps,
            self.first_order,
            data=(images, targets),
            recompute=self.recompute_inner_steps,
        )

    @property
    def rates(self) -> Rate:
        """The learning rate of inner steps, or one for each parameter by its name; a subclass may learn them."""
        return self.inner_lr

    def inner_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of inner steps, from outputs [n, N] and labels [n], or real numbers [n, N], of one task."""
        loss = prediction_loss(outputs, targets)
        summed_over_ways = self.inner_loss_reduction == "sum_over_shots" and not targets.is_floating_point()
        return loss * outputs.shape[-1] if summed_over_ways else loss

    # Tasks whose inner steps are taken side by side ----------------------------------------------------

    def accumulates_task_gradients(self, batch: Episode) -> bool:
        if super().accumulates_task_gradients(batch):
            return True
        return self.num_side_by_side(batch.support_x[0], batch.num_tasks) > 1 and self.can_accumulate_task_gradients(
            batch
        )

    def _accumulated_losses(self, batch: Episode) -> tuple[Tensor, Tensor]:
        if (num_together := self.num_side_by_side(batch.support_x[0], batch.num_tasks)) == 1:
            return super()._accumulated_losses(batch)
        self.checked_ways(batch)
        num_queried_together = num_together
        if batch.query_x.is_cpu:  # the caches hold the maps of only so many tasks
            num_queried_together = min(num_together, self.learner.num_side_by_side(batch.query_x[0]))
        num_threads = 2 if self.trains_groups_in_pairs(batch.support_x, num_together) else 1
        grouping = Grouping(num_together, num_queried_together, num_threads)
        adapted, query_loss = MAML.adapted_side_by_side, MAML._queried_side_by_side
        return losses_in_groups(self, trained_parameters(self.learner), adapted, query_loss, batch[:4], grouping)

    def _queried_side_by_side(
        self, parameters: Parameters, support_x: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean loss [] and the outputs [G, N*Q, N] of G tasks with these parameters, side by side."""
        images = images_side_by_side(support_x), images_side_by_side(query_x)
        outputs = outputs_of_each(self.logits_at(parameters, *images), len(query_x))
        return self.query_loss(outputs, query_y), outputs

    @property
    def adapts_side_by_side(self) -> bool:
        # A subclass may adapt differently.
        return type(self) is MAML and self.passes_side_by_side and not self.recompute_inner_steps
