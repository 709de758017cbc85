"""Measures of few-shot results."""

from fewshot_pl.metrics.calibration import Calibration, ConfidenceBins, confidence_bins
from fewshot_pl.metrics.class_confusion import ClassConfusion
from fewshot_pl.metrics.episode_mean import (
    EpisodeMean,
    episode_accuracy,
    episode_losses,
    episode_mse,
    mean_and_ci95,
    training_accuracy,
)
from fewshot_pl.metrics.measures import EpisodeMeasures, EpisodeRecords

__all__ = [
    "Calibration",
    "ClassConfusion",
    "ConfidenceBins",
    "EpisodeMean",
    "EpisodeMeasures",
    "EpisodeRecords",
    "confidence_bins",
    "episode_accuracy",
    "episode_losses",
    "episode_mse",
    "mean_and_ci95",
    "training_accuracy",
]
