"""Meta-SGD (Li, Zhou, Chen, Li 2017)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.maml import MAML
from fewshot_pl.functional.inner_loop import Rate

_FIRST_RATES = 0.005, 0.1  # the range that the rate at the start is drawn from


class MetaSGD(MAML):
    """MAML that learns a learning rate for each weight, and so the direction of an inner step too.

    phi = theta - alpha * grad_theta L(theta; support), where alpha has as many entries as theta, of any sign; theta and
    alpha are trained by Adam on L(phi; query) through that step (section 3.2, algorithm 1). Learned: theta, alpha.
    Adapted: a copy of theta.

    Differs from the paper: there may be several steps, all with the same alpha. Batch norm and initial weights are
    those of our MAML.

    Args:
        inner_lr: what all entries of alpha are at the start; by default one number drawn from 0.005 to 0.1.
        inner_loss_reduction: as in MAML; ``mean`` in the paper.
    """

    argument_ranges = at_least(1, "num_inner_steps")  # else no gradient would reach alpha
    takes_side_by_side = False

    def __init__(
        self,
        inner_lr: float | None = None,
        inner_loss_reduction: Literal["sum_over_shots", "mean"] = "mean",
        **kwargs: Any,
    ) -> None:
        first = torch.empty((), device="cpu").uniform_(*_FIRST_RATES).item() if inner_lr is None else inner_lr
        super().__init__(inner_lr=first, inner_loss_reduction=inner_loss_reduction, **kwargs)
        self.alpha = nn.Parameter(torch.full_like(self.learner.point(), first).detach())  # [P]

    @property
    def rates(self) -> Rate:
        return self.learner.parameters_at(self.alpha)

    @property
    def learned_step_sizes(self) -> dict[str, Tensor]:
        return {f"alpha/{name}": sizes for name, sizes in self.learner.parameters_at(self.alpha.detach()).items()}
