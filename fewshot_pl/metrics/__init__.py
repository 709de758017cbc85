"""Measures of few-shot results."""

from fewshot_pl.metrics.calibration import Calibration
from fewshot_pl.metrics.episode_mean import EpisodeMean, episode_accuracy, episode_mse
from fewshot_pl.metrics.measures import EpisodeMeasures

__all__ = ["Calibration", "EpisodeMean", "EpisodeMeasures", "episode_accuracy", "episode_mse"]
