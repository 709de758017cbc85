"""BOIL: body only update in inner loop (Oh, Yoo, Kim, Yun 2021)."""

from typing import Any, Literal

from torch import Tensor

from fewshot_pl.algorithms.maml import MAML
from fewshot_pl.backbones.learner import body_and_head
from fewshot_pl.functional.inner_loop import Parameters


class BOIL(MAML):
    """MAML whose inner steps adapt everything but the head, which changes the features that a task sees (section 3).

    phi = (body - alpha grad_body L(body, head; support), head), ``num_inner_steps`` times; the body and the head are
    trained by Adam on L(phi; query) through those steps. Learned: body and head. Adapted: a copy of the body.

    Batch norm adds 1e-5 to the variance, as the authors' code does; its scale and shift are adapted, there too. Initial
    weights are as in our MAML.

    Args:
        inner_lr: alpha, the learning rate of the inner loop; 0.5 in the authors' code, for the ``mean`` loss.
        inner_loss_reduction: as in MAML; ``mean`` in the authors' code.
    """

    takes_side_by_side = False

    def __init__(
        self,
        inner_lr: float = 0.5,
        inner_loss_reduction: Literal["sum_over_shots", "mean"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(inner_lr=inner_lr, inner_loss_reduction=inner_loss_reduction, **kwargs)

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        body, head = body_and_head(dict(self.learner.named_parameters()))
        return {**self.adapted_from(body, support_x, support_y, num_steps), **head}
