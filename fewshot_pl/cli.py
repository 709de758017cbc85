"""The commands: what ``train.py``, ``evaluate.py``, ``predict.py`` and ``export.py`` do."""

from fewshot_pl.evaluation import evaluate
from fewshot_pl.exporting.command import export
from fewshot_pl.prediction.command import predict
from fewshot_pl.training import TrainCLI, train

__all__ = ["TrainCLI", "evaluate", "export", "predict", "train"]
