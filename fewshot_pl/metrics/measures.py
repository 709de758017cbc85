"""EpisodeMeasures: what an evaluation reports for classification and for regression."""

from typing import NamedTuple

from torch import Tensor, nn

from fewshot_pl.metrics.calibration import Calibration
from fewshot_pl.metrics.episode_mean import EpisodeMean, episode_accuracy, episode_mse


class EpisodeRecords(NamedTuple):
    """The results of each of E episodes, in main memory; the last two fields are None in regression.

    If episodes differ in their number of queries, the last two fields are padded with nan.
    """

    figures: Tensor  # [E] accuracy; in regression the mean squared error
    confidence: Tensor | None = None  # [E, N*Q] probability of a query's predicted class
    correct: Tensor | None = None  # [E, N*Q] 1 where the prediction is correct, else 0

    def reordered(self, order: Tensor) -> "EpisodeRecords":
        """The records of the episodes at the positions ``order``."""
        confidence, correct = (None if part is None else part[order] for part in self[1:])
        return EpisodeRecords(self.figures[order], confidence, correct)


class EpisodeMeasures(nn.Module):
    """Accuracy with its interval and calibration in classification; mean squared error in regression.

    Attributes:
        loss: the mean over episodes of the model's loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = EpisodeMean()
        self.calibration = Calibration()
        self.mse = EpisodeMean()
        self.loss = EpisodeMean()

    def classified(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Add tasks with log-probabilities [T, n, N] and labels [T, n]; -100 is left out."""
        self.accuracy.update(episode_accuracy(log_probabilities, labels))
        self.calibration.update(log_probabilities, labels)

    def regressed(self, predictions: Tensor, targets: Tensor) -> None:
        """Add tasks with predictions and targets [T, n, D]."""
        self.mse.update(episode_mse(predictions, targets))

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``ci95``, ``nll``, ``ece``, ``brier``; or ``mse``, ``ci95``; and ``loss``, if any."""
        figures = {"loss": self.loss.compute()[0]} if self.loss.update_called else {}
        if self.mse.update_called:
            return dict(zip(("mse", "ci95"), self.mse.compute(), strict=True)) | figures
        accuracy = dict(zip(("accuracy", "ci95"), self.accuracy.compute(), strict=True))
        return {**accuracy, **self.calibration.compute(), **figures}

    def num_episodes(self) -> int:
        """The number of episodes counted on all devices."""
        counted = self.mse if self.mse.update_called else self.accuracy
        return len(counted.of_all_devices())

    def records(self) -> EpisodeRecords:
        """The results of each episode, ordered by device; every query must have a known class."""
        if self.mse.update_called:
            return EpisodeRecords(self.mse.of_all_devices())
        figures = self.accuracy.of_all_devices()
        return EpisodeRecords(figures, *self.calibration.of_all_devices())

    def reset(self) -> None:
        """Forget all tasks."""
        for metric in (self.accuracy, self.calibration, self.mse, self.loss):
            metric.reset()
