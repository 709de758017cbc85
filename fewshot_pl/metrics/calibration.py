"""Calibration: whether predicted probabilities can be believed."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fewshot_pl.episode import UNKNOWN

_NUM_BINS = 15  # Guo et al. 2017, section 5


class ConfidenceBins(NamedTuple):
    """Queries by the probability of their predicted class, in 15 bins of equal width from 0 to 1."""

    num_queries: Tensor  # [B]
    confidence: Tensor  # [B] mean probability of the predicted class; 0 where there is no query
    accuracy: Tensor  # [B] share of right predictions; 0 where there is no query

    @property
    def ece(self) -> Tensor:
        """The expected calibration error, 0 to 1 (Guo et al. 2017, equation 3)."""
        return ((self.confidence - self.accuracy).abs() * self.num_queries).sum() / self.num_queries.sum()


def confidence_bins(confidence: Tensor, correct: Tensor) -> ConfidenceBins:
    """The bins of queries whose predicted class has probability ``confidence`` [n] and is right or not, [n] 1 or 0."""
    edges = torch.linspace(0, 1, _NUM_BINS + 1, dtype=confidence.dtype, device=confidence.device)
    bins = torch.bucketize(confidence, edges[1:-1], right=True)  # certainty falls into the last
    count, confident, right = (
        torch.bincount(bins, weights, minlength=_NUM_BINS) for weights in (None, confidence, correct)
    )
    return ConfidenceBins(count, confident / count.clamp_min(1), right / count.clamp_min(1))


class Calibration(Metric):
    """Negative log-likelihood, expected calibration error and Brier score over all queries of all episodes.

    ECE compares, in 15 bins of confidence, the mean probability of the predicted class with the accuracy (Guo et al.
    2017, equation 3). The Brier score is the squared distance of the probabilities from the one-hot label, 0 to 2
    (Brier 1950). What is kept of every query makes the figures independent of batches and devices.

    Attributes:
        bins: the bins behind the last ECE computed; of all devices, and kept when the queries are forgotten.
    """

    full_state_update = False
    nll: list[Tensor] | Tensor
    brier: list[Tensor] | Tensor
    confidence: list[Tensor] | Tensor
    correct: list[Tensor] | Tensor
    known: list[Tensor] | Tensor  # what is not known is left out at the end: to choose among tensors makes a GPU wait
    num_queries: list[Tensor] | Tensor  # of each episode, that are known
    bins: ConfidenceBins | None = None

    def __init__(self) -> None:
        super().__init__()
        for name in ("nll", "brier", "confidence", "correct", "known", "num_queries"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Count queries of log-probabilities [T, n, N] and labels [T, n]; -100 is left out."""
        known = labels != UNKNOWN  # [T, n]
        log_probabilities, labels = log_probabilities.flatten(0, 1).float(), labels.flatten()  # [T*n, N], [T*n]
        probabilities = log_probabilities.exp()
        confidence, predicted = probabilities.max(-1)
        targets = F.one_hot(labels.clamp_min(0), probabilities.shape[-1])
        figures = {
            "nll": F.nll_loss(log_probabilities, labels, reduction="none", ignore_index=UNKNOWN),
            "brier": (probabilities - targets).square().sum(-1),
            "confidence": confidence.clamp(0, 1),
            "correct": (predicted == labels).to(confidence.dtype),
            "known": known.flatten(),
            "num_queries": known.sum(-1),
        }
        for name, values in figures.items():
            getattr(self, name).append(values)

    def compute(self) -> dict[str, Tensor]:
        """The three figures by name: ``nll`` in nats, ``ece`` 0 to 1, ``brier`` 0 to 2."""
        kept = self._of_known(self.nll, self.brier, self.confidence, self.correct)
        nll, brier, confidence, correct = (values.double() for values in kept)
        # Sorted: sums of the same numbers in the same order have the same last digit.
        order = torch.argsort(confidence + 2 * correct, stable=True)
        self.bins = confidence_bins(confidence[order], correct[order])
        return {"nll": nll.sort().values.mean(), "ece": self.bins.ece, "brier": brier.sort().values.mean()}

    def of_all_devices(self) -> tuple[Tensor, Tensor]:
        """Confidence and correctness, 0 or 1, of the queries of every episode that any device has seen, [E, N*Q].

        Device after device; nan where an episode has fewer queries than another.
        """
        with self.sync_context():
            counts = dim_zero_cat(self.num_queries).tolist()
            kept = self._of_known(self.confidence, self.correct)
            confidence, correct = (pad_sequence(list(torch.split(part, counts)), True, torch.nan) for part in kept)
            return confidence, correct

    def _of_known(self, *states: list[Tensor] | Tensor) -> list[Tensor]:
        """What states keep of the queries whose class is known, in main memory."""
        known = dim_zero_cat(self.known).cpu()
        return [dim_zero_cat(values).cpu()[known] for values in states]
