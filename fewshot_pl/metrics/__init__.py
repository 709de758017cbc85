"""Measures of few-shot results."""

from fewshot_pl.metrics.episode_accuracy import EpisodeAccuracy, episode_accuracy

__all__ = ["EpisodeAccuracy", "episode_accuracy"]
