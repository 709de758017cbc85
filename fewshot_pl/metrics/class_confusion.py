"""ClassConfusion: which classes of a split are taken for which, over the tasks that they meet in."""

import torch
from torch import Tensor
from torchmetrics import Metric

from fewshot_pl.episode import UNKNOWN


class ClassConfusion(Metric):
    """Counts the answers to queries by the classes of a split, not by their labels within a task.

    Two classes can only be confused in a task that holds both, so those queries are counted too. Nothing is read back
    from the device before ``compute``.

    Args:
        num_classes: C, of the split.
    """

    full_state_update = False
    answered: Tensor  # [C, C]
    offered: Tensor  # [C, C]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("answered", "offered"):
            zeros = torch.zeros(num_classes, num_classes, dtype=torch.long)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, classes: Tensor) -> None:
        """Count queries of logits [T, n, N] and labels [T, n], -100 left out, in tasks of the classes [T, N]."""
        known = (labels != UNKNOWN).long()  # [T, n]
        rows = classes.gather(1, labels.clamp_min(0)) * len(self.answered)  # [T, n], of the flat matrices
        answers = rows + classes.gather(1, logits.argmax(-1))
        choices = rows[..., None] + classes[:, None]  # [T, n, N]
        self.answered.view(-1).index_add_(0, answers.flatten(), known.flatten())
        self.offered.view(-1).index_add_(0, choices.flatten(), known[..., None].expand_as(choices).flatten())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Two matrices of counts [C, C], by true class: of answers, and of queries whose task offers the class."""
        return self.answered, self.offered
