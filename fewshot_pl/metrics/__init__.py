"""Measures of few-shot results."""

from fewshot_pl.metrics.calibration import Calibration, Reliability, reliability
from fewshot_pl.metrics.episode_mean import EpisodeMean, episode_accuracy, episode_mse, mean_and_ci95
from fewshot_pl.metrics.measures import EpisodeMeasures, EpisodeRecords

__all__ = [
    "Calibration",
    "EpisodeMean",
    "EpisodeMeasures",
    "EpisodeRecords",
    "Reliability",
    "episode_accuracy",
    "episode_mse",
    "mean_and_ci95",
    "reliability",
]
