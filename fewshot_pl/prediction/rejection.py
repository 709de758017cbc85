"""When an image is called unknown: a threshold calibrated on classes that neither training nor the task knows."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.errors import InputError

REJECTIONS_KEY = "rejections"  # in a checkpoint's contents
_SHARES = np.linspace(0.0, 1.0, 101)

Score = Literal["logit", "probability"]


class Rejection(NamedTuple):
    """How sure a prediction has to be, for tasks of about ``num_shots`` shots.

    Attributes:
        score: what is compared, the largest ``logit`` or the largest ``probability`` of an image, whichever separated
            known images from unknown ones better.
        num_ways: of the calibration's tasks.
        num_shots: of the calibration's tasks.
        auroc: the probability that a known image has a higher score than an unknown one.
        thresholds: [101], the scores below which 0, 1, ... 100 percent of the known images lay.
        false_accepts: [101], the share of unknown images that lay above each of these.
    """

    score: Score
    num_ways: int
    num_shots: int
    auroc: float
    thresholds: list[float]
    false_accepts: list[float]

    def threshold(self, false_reject: float) -> float:
        """The score below which this share of the known images, 0 to 1, is rejected."""
        return float(np.interp(false_reject, _SHARES, self.thresholds))

    def false_accept(self, false_reject: float) -> float:
        """The share of unknown images that is not rejected at the same threshold."""
        return float(np.interp(false_reject, _SHARES, self.false_accepts))

    def rejects(
        self, logits: NDArray[np.float64], log_probabilities: NDArray[np.float64], false_reject: float
    ) -> NDArray[np.bool_]:
        """Whether each of n images, by its logits [n, N] and log-probabilities [n, N], is called unknown."""
        found = scores(logits, log_probabilities)[self.score]
        return np.asarray(found < self.threshold(false_reject))


def scores(logits: NDArray[np.float64], log_probabilities: NDArray[np.float64]) -> dict[Score, NDArray[np.float64]]:
    """The confidences [n] of n predictions, by logits [n, N] and by log-probabilities [n, N]."""
    return {"logit": logits.max(-1), "probability": np.exp(log_probabilities.max(-1))}


def calibrated(
    known: dict[Score, NDArray[np.float64]], unknown: dict[Score, NDArray[np.float64]], num_ways: int, num_shots: int
) -> Rejection:
    """The Rejection calibrated on the scores of known [n] and of unknown [m] images."""
    aurocs: dict[Score, float] = {name: auroc(known[name], unknown[name]) for name in known}
    best = max(aurocs, key=lambda name: aurocs[name])
    thresholds = np.quantile(known[best], _SHARES)
    above = 1 - np.searchsorted(np.sort(unknown[best]), thresholds) / len(unknown[best])
    counts = int(num_ways), int(num_shots)  # maybe numpy's, which a checkpoint cannot hold
    return Rejection(best, *counts, aurocs[best], thresholds.tolist(), above.tolist())


def auroc(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> float:
    """The probability that a score of ``known`` [n] exceeds one of ``unknown`` [m], ties counted half."""
    ordered = np.sort(unknown)
    below, not_above = np.searchsorted(ordered, known, "left"), np.searchsorted(ordered, known, "right")
    return float((below + not_above).mean() / 2 / len(unknown))


def rejections_in(contents: dict[str, Any]) -> list[Rejection]:
    """The calibrations in a checkpoint's contents.

    Raises:
        InputError: they are from another version.
    """
    try:
        return [Rejection(**values) for values in contents.get(REJECTIONS_KEY, [])]
    except TypeError as error:
        raise InputError(
            "the checkpoint holds a calibration of unknown images that is not this version's: resume its training with "
            "train.py --ckpt_path, which calibrates it anew"
        ) from error


def nearest_rejection(rejections: Sequence[Rejection], num_shots: float) -> Rejection | None:
    """The calibration whose number of shots is nearest, by ratio; None where there is none."""
    return min(rejections, key=lambda one: abs(np.log(one.num_shots / num_shots)), default=None)
