"""Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017)."""

from typing import Any, Literal

from torch import Tensor
from torch.func import functional_call

from fewshot_pl.algorithms.adaptation import adapted_learner
from fewshot_pl.algorithms.gradient import GradientAlgorithm
from fewshot_pl.backbones.learner import draws_random_numbers
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.objectives import prediction_loss


class MAML(GradientAlgorithm):
    """Learn weights from which a few gradient steps on the support solve a task.

    phi = theta - alpha grad_theta L(theta; support), ``num_inner_steps`` times; theta is trained by Adam on
    L(phi; query) through those steps (section 2.2, algorithm 2). Learned: theta, batch norm's scale and shift among it.
    Adapted: a copy of all of theta.

    Differs from the paper's code: batch norm's scale and shift are adapted too (the code has no scale and does not
    adapt the shift), and the head starts from Xavier's distribution on every benchmark.

    Args:
        inner_lr: alpha.
        first_order: count inner gradients as constants (first-order MAML, section 5.2).
        inner_loss_reduction: the inner loss is the cross-entropy summed over the support and divided by the shots
            (``sum_over_shots``, the paper's code, which ``inner_lr`` = 0.4 belongs to) or its ``mean``, N times
            smaller. In regression both are the mean squared error.
        recompute_inner_steps: make each inner step again in the backward pass in place of keeping its intermediate
            results: memory no longer grows by a network's activations with each step, and steps take longer.
    """

    def __init__(
        self,
        inner_lr: float = 0.4,
        first_order: bool = False,
        inner_loss_reduction: Literal["sum_over_shots", "mean"] = "sum_over_shots",
        recompute_inner_steps: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inner_lr = inner_lr
        self.first_order = first_order
        self.inner_loss_reduction = inner_loss_reduction
        self.recompute_inner_steps = recompute_inner_steps
        if recompute_inner_steps and draws_random_numbers(self.learner):
            raise InputError(
                f"{self.hparams['backbone']} drops parts of itself at random and cannot be computed again: "
                "leave out --model.recompute_inner_steps"
            )

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        return self.adapted_from(dict(self.learner.named_parameters()), support_x, support_y, num_steps)

    def adapted_from(self, parameters: Parameters, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        """What becomes of the learner's ``parameters`` in so many steps on one task's support."""

        def support_loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
            return self.inner_loss(functional_call(self.learner, parameters, (x,)), y)

        return adapted_learner(
            self.learner,
            support_loss,
            parameters,
            self.inner_lr,
            num_steps,
            self.first_order,
            data=(support_x, support_y),
            recompute=self.recompute_inner_steps,
        )

    def inner_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What inner steps descend, of outputs [n, N] for the labels [n] of one task."""
        loss = prediction_loss(outputs, targets)
        return loss * outputs.shape[-1] if self.inner_loss_reduction == "sum_over_shots" else loss
