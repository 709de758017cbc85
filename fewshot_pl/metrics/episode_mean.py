"""EpisodeMean: the mean over episodes of any figure, with its 95% confidence interval."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fewshot_pl.episode import UNKNOWN
from fewshot_pl.functional.precision import at_least_float32
from fewshot_pl.registries import is_ours

_Z95 = 1.96  # two-sided 95% quantile of the normal distribution, as the papers use it


def episode_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The accuracy [T] of each task, from logits [T, n, N] and labels [T, n]; -100 is left out."""
    known = labels != UNKNOWN
    right = (logits.argmax(-1) == labels) & known
    return right.sum(-1).float() / known.sum(-1)


def training_accuracy(logits: Tensor, query_y: Tensor) -> dict[str, Tensor]:
    """The mean accuracy of a training step, by name, to log; empty in regression."""
    return {} if query_y.is_floating_point() else {"accuracy": episode_accuracy(logits.detach(), query_y).mean()}


def episode_mse(predictions: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error [T] of each task, from predictions and targets [T, n, D]."""
    return (predictions - targets).square().mean((-2, -1))


def episode_losses(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss [T] of each task, from outputs [T, n, N] and targets [T, n] or [T, n, D].

    Args:
        loss: the mean over tasks as a function of outputs and targets of these shapes.
        outputs: of the tasks.
        targets: of the tasks.
    """
    outputs = at_least_float32(outputs)  # autocast would not convert them under vmap
    # One by one on a CPU, where the rounding of a sum over several tasks would depend on which are in the batch, and if
    # the loss is a user's, which vmap may not take.
    one_by_one = outputs.is_cpu or not is_ours(loss)
    return _losses_one_by_one(loss, outputs, targets) if one_by_one else _losses_at_once(loss, outputs, targets)


def _losses_one_by_one(loss: Callable[[Tensor, Tensor], Tensor], *tasks: Tensor) -> Tensor:
    return torch.stack([loss(*(part[None] for part in task)) for task in zip(*tasks, strict=True)])


def _losses_at_once(loss: Callable[[Tensor, Tensor], Tensor], *tasks: Tensor) -> Tensor:
    losses: Tensor = torch.func.vmap(loss)(*(part[:, None] for part in tasks))
    return losses


def mean_and_ci95(figures: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the figures [E] of episodes, and 1.96 standard deviations over the root of their number.

    The latter is nan for one episode, which says nothing of the spread.
    """
    # Sorted, so that sums of the same numbers are equal to the last digit.
    figures = torch.sort(figures.cpu().double()).values
    deviation = figures.std(correction=0) if len(figures) > 1 else figures.new_tensor(torch.nan)
    return figures.mean(), _Z95 * deviation / figures.numel() ** 0.5


class EpisodeMean(Metric):
    """The mean of a figure over episodes, and 1.96 standard deviations over the root of their number.

    The figure of every episode is kept, so the result is exact: it does not depend on how the episodes were spread over
    devices and batches.
    """

    full_state_update = False
    figures: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("figures", default=[], dist_reduce_fx="cat")

    def update(self, figures: Tensor) -> None:
        """Add the figures [T] of T tasks."""
        assert isinstance(self.figures, list)
        self.figures.append(figures)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean and the half-width of its 95% confidence interval, nan for one episode."""
        return mean_and_ci95(self.per_episode())

    def per_episode(self) -> Tensor:
        """The figure of every episode seen so far."""
        return dim_zero_cat(self.figures)

    def of_all_devices(self) -> Tensor:
        """The figure of every episode on all devices, ordered by device."""
        with self.sync_context():
            return self.per_episode().cpu()
