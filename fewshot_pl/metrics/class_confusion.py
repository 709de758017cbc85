"""ClassConfusion: which classes of a split are mistaken for which, over the tasks that contain both."""

import torch
from torch import Tensor
from torchmetrics import Metric

from fewshot_pl.episode import UNKNOWN


class ClassConfusion(Metric):
    """Counts the predictions for queries by the classes of a split, not by their labels within a task.

    Two classes can only be confused in a task that contains both, so the queries of such tasks are counted too.
    Nothing is read back from the device before ``compute``.

    Args:
        num_classes: C, the number of classes of the split.
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
        """Add queries with logits [T, n, N] and labels [T, n] (-100 is left out) from tasks of the classes [T, N]."""
        known = (labels != UNKNOWN).long()  # [T, n]
        rows = classes.gather(1, labels.clamp_min(0)) * len(self.answered)  # [T, n], in the flattened matrices
        answers = rows + classes.gather(1, logits.argmax(-1))
        choices = rows[..., None] + classes[:, None]  # [T, n, N]
        self.answered.view(-1).index_add_(0, answers.flatten(), known.flatten())
        self.offered.view(-1).index_add_(0, choices.flatten(), known[..., None].expand_as(choices).flatten())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Counts [C, C] by true class: of predictions of each class, and of queries whose task contains it."""
        return self.answered, self.offered
