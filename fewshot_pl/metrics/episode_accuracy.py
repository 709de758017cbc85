"""EpisodeAccuracy: the mean over episodes, with its 95% confidence interval."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_IGNORED = -100  # the label of a query whose class is unknown
_Z95 = 1.96  # two-sided 95% quantile of the normal distribution, as the papers use it


def episode_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The accuracy [T] of each task, from logits [T, n, N] and targets [T, n]; -100 is left out."""
    known = targets != _IGNORED
    right = (logits.argmax(-1) == targets) & known
    return right.sum(-1).float() / known.sum(-1)


class EpisodeAccuracy(Metric):
    """Accuracy over episodes: the mean, and 1.96 standard deviations over the root of their number.

    The accuracy of every episode is kept, so devices are joined exactly: the figure does not depend on how the
    episodes were spread over devices and batches.
    """

    full_state_update = False
    higher_is_better = True
    accuracies: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("accuracies", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count the tasks of logits [T, n, N] and targets [T, n]."""
        assert isinstance(self.accuracies, list)
        self.accuracies.append(episode_accuracy(logits, targets))

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean accuracy and the half-width of its 95% confidence interval."""
        # Sorted: a sum of the same numbers in the same order has the same last digit.
        accuracies = torch.sort(self.per_episode().cpu().double()).values
        deviation = accuracies.std(correction=0)
        return accuracies.mean(), _Z95 * deviation / accuracies.numel() ** 0.5

    def per_episode(self) -> Tensor:
        """The accuracy of every episode seen so far."""
        return dim_zero_cat(self.accuracies)
