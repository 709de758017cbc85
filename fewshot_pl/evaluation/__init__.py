"""Evaluation on fixed lists of episodes: of one checkpoint, on a grid of tasks, or of several on the same episodes."""

from fewshot_pl.evaluation.command import evaluate

__all__ = ["evaluate"]
