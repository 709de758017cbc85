"""fewshot_pl: few-shot and meta-learning on PyTorch Lightning."""

import importlib
from typing import Any

from fewshot_pl.episode import Episode as Episode
from fewshot_pl.errors import InputError as InputError
from fewshot_pl.freed_memory import keep_freed_memory as keep_freed_memory
from fewshot_pl.torchvision_guard import import_torchvision

__version__ = "0.1.0"
_HERE = ["Episode", "InputError", "__version__", "keep_freed_memory"]
_REGISTRIES = "fewshot_pl.algorithms", "fewshot_pl.benchmarks"
_ELSEWHERE = {
    "EpisodicDataModule": "fewshot_pl.data.datamodule",
    "FewShotPredictor": "fewshot_pl.prediction.predictor",
    "GradientAlgorithm": "fewshot_pl.algorithms.gradient",
    "ImageDataModule": "fewshot_pl.data.image_datamodule",
    "MetricAlgorithm": "fewshot_pl.algorithms.metric",
    "StoredDataModule": "fewshot_pl.data.stored_datamodule",
    "TrainedModel": "fewshot_pl.prediction.trained_model",
    "calibrate": "fewshot_pl.prediction.calibration",
    "load_algorithm": "fewshot_pl.checkpoints",
}

import_torchvision()  # before anything imports pytorch_lightning or torchmetrics


def __getattr__(name: str) -> Any:
    """An algorithm, a benchmark, or another name that takes time to import, imported on first access."""
    if name == "__all__":
        return _exported()
    for module in map(importlib.import_module, _REGISTRIES):
        if name in module.__all__:
            return getattr(module, name)
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'fewshot_pl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_exported()})


def _exported() -> list[str]:
    in_registries = (name for module in map(importlib.import_module, _REGISTRIES) for name in module.__all__)
    return sorted({*_HERE, *_ELSEWHERE, *in_registries})
