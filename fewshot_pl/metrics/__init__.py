"""Measures of few-shot results."""

from fewshot_pl.metrics.calibration import Calibration, ConfidenceBins
from fewshot_pl.metrics.class_confusion import ClassConfusion
from fewshot_pl.metrics.episode_mean import EpisodeMean, episode_accuracy, episode_mse
from fewshot_pl.metrics.measures import EpisodeMeasures

__all__ = [
    "Calibration",
    "ClassConfusion",
    "ConfidenceBins",
    "EpisodeMean",
    "EpisodeMeasures",
    "episode_accuracy",
    "episode_mse",
]
