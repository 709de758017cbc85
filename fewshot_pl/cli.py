"""The commands: what ``train.py`` and ``evaluate.py`` do."""

from fewshot_pl.evaluation import evaluate
from fewshot_pl.training import TrainCLI, train

__all__ = ["TrainCLI", "evaluate", "train"]
