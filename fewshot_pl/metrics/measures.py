"""EpisodeMeasures: what an evaluation reports of a classification, and of a regression."""

from typing import NamedTuple

from torch import Tensor, nn

from fewshot_pl.metrics.calibration import Calibration
from fewshot_pl.metrics.episode_mean import EpisodeMean, episode_accuracy, episode_mse


class EpisodeRecords(NamedTuple):
    """What is known of each of E episodes by itself, in main memory; the last two are None of a regression.

    Where episodes differ in their number of queries, the last two end in nan.
    """

    figures: Tensor  # [E] accuracy; of regression the mean squared error
    confidence: Tensor | None = None  # [E, N*Q] probability of the class that a query was given
    correct: Tensor | None = None  # [E, N*Q] 1 where that is its class, else 0

    def reordered(self, order: Tensor) -> "EpisodeRecords":
        """The records of the episodes at the positions ``order``."""
        confidence, correct = (None if part is None else part[order] for part in self[1:])
        return EpisodeRecords(self.figures[order], confidence, correct)


class EpisodeMeasures(nn.Module):
    """Accuracy with its interval and calibration of a classification; mean squared error of a regression.

    Attributes:
        loss: the mean over episodes of whatever loss a model has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = EpisodeMean()
        self.calibration = Calibration()
        self.mse = EpisodeMean()
        self.loss = EpisodeMean()

    def classified(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Count tasks of log-probabilities [T, n, N] and labels [T, n]; -100 is left out."""
        self.accuracy.update(episode_accuracy(log_probabilities, labels))
        self.calibration.update(log_probabilities, labels)

    def regressed(self, predictions: Tensor, targets: Tensor) -> None:
        """Count tasks of predictions and targets [T, n, D]."""
        self.mse.update(episode_mse(predictions, targets))

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``ci95``, ``nll``, ``ece``, ``brier``; or ``mse``, ``ci95``; and ``loss``, if any."""
        figures = {"loss": self.loss.compute()[0]} if self.loss.update_called else {}
        if self.mse.update_called:
            return dict(zip(("mse", "ci95"), self.mse.compute(), strict=True)) | figures
        accuracy = dict(zip(("accuracy", "ci95"), self.accuracy.compute(), strict=True))
        return {**accuracy, **self.calibration.compute(), **figures}

    def num_episodes(self) -> int:
        """How many episodes have been counted on all devices."""
        counted = self.mse if self.mse.update_called else self.accuracy
        return len(counted.of_all_devices())

    def records(self) -> EpisodeRecords:
        """Each episode by itself, those of one device after those of another; every query must have a known class."""
        if self.mse.update_called:
            return EpisodeRecords(self.mse.of_all_devices())
        figures = self.accuracy.of_all_devices()
        return EpisodeRecords(figures, *self.calibration.of_all_devices())

    def reset(self) -> None:
        """Forget all tasks."""
        for metric in (self.accuracy, self.calibration, self.mse, self.loss):
            metric.reset()
