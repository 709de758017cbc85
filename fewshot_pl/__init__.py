"""fewshot_pl: few-shot and meta-learning on PyTorch Lightning."""

import importlib
from typing import Any

from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.freed_memory import keep_freed_memory
from fewshot_pl.torchvision_guard import import_torchvision

__version__ = "0.1.0"
__all__ = ["Episode", "FewShotPredictor", "InputError", "__version__", "keep_freed_memory", "load_algorithm"]
_ELSEWHERE = {
    "EpisodicDataModule": "fewshot_pl.data.datamodule",
    "FewShotPredictor": "fewshot_pl.prediction.predictor",
    "GradientAlgorithm": "fewshot_pl.algorithms.gradient",
    "ImageDataModule": "fewshot_pl.data.image_datamodule",
    "MetricAlgorithm": "fewshot_pl.algorithms.metric",
    "StoredDataModule": "fewshot_pl.data.stored_datamodule",
    "calibrate": "fewshot_pl.prediction.calibration",
    "load_algorithm": "fewshot_pl.checkpoints",
}

import_torchvision()  # before anything imports pytorch_lightning or torchmetrics


def __getattr__(name: str) -> Any:
    """The algorithms, the benchmarks, and what else takes time to import, imported when first asked for."""
    for module in map(importlib.import_module, ("fewshot_pl.algorithms", "fewshot_pl.benchmarks")):
        if name in module.__all__:
            return getattr(module, name)
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'fewshot_pl' has no attribute '{name}'")
