"""Evaluation of checkpoints on fixed lists of episodes: one, a grid of tasks, or several on the same episodes."""

from fewshot_pl.evaluation.command import evaluate

__all__ = ["evaluate"]
