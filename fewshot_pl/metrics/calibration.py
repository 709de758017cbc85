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
    confidence: Tensor  # [B] mean probability of the predicted class; 0 in an empty bin
    accuracy: Tensor  # [B] share of correct predictions; 0 in an empty bin

    @property
    def ece(self) -> Tensor:
        """The expected calibration error, 0 to 1 (Guo et al. 2017, equation 3)."""
        return ((self.confidence - self.accuracy).abs() * self.num_queries).sum() / self.num_queries.sum()


def confidence_bins(confidence: Tensor, correct: Tensor) -> ConfidenceBins:
    """The bins of n queries, from the probability [n] of the predicted class and whether it is correct, [n] 1 or 0."""
    edges = torch.linspace(0, 1, _NUM_BINS + 1, dtype=confidence.dtype, device=confidence.device)
    bins = torch.bucketize(confidence, edges[1:-1], right=True)  # confidence 1 falls into the last bin
    count, confident, right = (
        torch.bincount(bins, weights, minlength=_NUM_BINS) for weights in (None, confidence, correct)
    )
    return ConfidenceBins(count, confident / count.clamp_min(1), right / count.clamp_min(1))


class Calibration(Metric):
    """Negative log-likelihood, expected calibration error and Brier score over all queries of all episodes.

    ECE compares, in 15 bins of confidence, the mean probability of the predicted class with the accuracy (Guo et al.
    2017, equation 3). The Brier score is the squared distance of the probabilities from the one-hot label, 0 to 2
    (Brier 1950). The values of every query are kept, so the figures do not depend on batches and devices.

    Attributes:
        bins: the bins of the ECE computed last, over all devices; ``reset`` keeps them.
    """

    full_state_update = False
    nll: list[Tensor] | Tensor
    brier: list[Tensor] | Tensor
    confidence: list[Tensor] | Tensor
    correct: list[Tensor] | Tensor
    known: list[Tensor] | Tensor  # unknown labels are left out at the end: selecting by a mask makes a GPU wait
    num_queries: list[Tensor] | Tensor  # with known labels, in each episode
    bins: ConfidenceBins | None = None

    def __init__(self) -> None:
        super().__init__()
        for name in ("nll", "brier", "confidence", "correct", "known", "num_queries"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Add queries with log-probabilities [T, n, N] and labels [T, n]; -100 is left out."""
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
        # Sorted, so that sums of the same numbers are equal to the last digit.
        order = torch.argsort(confidence + 2 * correct, stable=True)
        self.bins = confidence_bins(confidence[order], correct[order])
        return {"nll": nll.sort().values.mean(), "ece": self.bins.ece, "brier": brier.sort().values.mean()}

    def of_all_devices(self) -> tuple[Tensor, Tensor]:
        """The confidence and correctness (0 or 1) [E, N*Q] of the queries of all episodes on all devices.

        Ordered by device; padded with nan where an episode has fewer queries than another.
        """
        with self.sync_context():
            counts = dim_zero_cat(self.num_queries).tolist()
            kept = self._of_known(self.confidence, self.correct)
            confidence, correct = (pad_sequence(list(torch.split(part, counts)), True, torch.nan) for part in kept)
            return confidence, correct

    def _of_known(self, *states: list[Tensor] | Tensor) -> list[Tensor]:
        """The values in states of those queries whose class is known, in main memory."""
        known = dim_zero_cat(self.known).cpu()
        return [dim_zero_cat(values).cpu()[known] for values in states]
