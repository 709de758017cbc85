"""What a run prints and saves: accuracy with its interval and everything needed to repeat it."""

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import fewshot_pl
from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.data.datamodule import EpisodicDataModule


def result_of(
    model: FewShotAlgorithm, data: EpisodicDataModule, metrics: Mapping[str, float], split: str, wall_time: float
) -> dict[str, Any]:
    """The result of an evaluation as plain values; accuracies are fractions, times seconds."""
    return {
        "algorithm": type(model).__name__,
        "data": type(data).__name__,
        "split": split,
        "num_ways": data.eval_size.num_ways,
        "num_shots": data.eval_size.num_shots,
        "num_queries": data.eval_size.num_queries,
        "num_episodes": data.num_episodes[split],
        "accuracy": float(metrics[f"{split}/accuracy"]),
        "ci95": float(metrics[f"{split}/ci95"]),
        "loss": float(metrics[f"{split}/loss"]),
        "norm": model.norm_mode,
        "episode_seed": data.seed,
        "wall_time_s": round(wall_time, 1),
        "versions": versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {_accelerator(model)}",
        "model_parameters": _plain(model.hparams),
        "data_parameters": _plain(data.hparams),
    }


def versions() -> dict[str, str]:
    """The versions of what the figures depend on."""
    return {
        "fewshot_pl": fewshot_pl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in ("pytorch-lightning", "torchmetrics", "torchvision", "numpy")},
    }


def save_result(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON; the file is there whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
    Path(name).replace(path)


def print_result(result: dict[str, Any]) -> None:
    """Print the table of a result."""
    table = Table(title=f"{result['algorithm']} on {result['data']}, {result['split']} split")
    for column in ("task", "accuracy", "95% CI", "episodes", "norm", "seed"):
        table.add_column(column)
    table.add_row(
        f"{result['num_ways']}-way {result['num_shots']}-shot",
        f"{100 * result['accuracy']:.2f} %",
        f"± {100 * result['ci95']:.2f}",
        str(result["num_episodes"]),
        result["norm"],
        str(result["episode_seed"]),
    )
    Console().print(table)


def _accelerator(model: FewShotAlgorithm) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type


def _plain(parameters: Any) -> dict[str, Any]:
    return {
        name: value if isinstance(value, int | float | str | bool | None) else list(value)
        for name, value in parameters.items()
    }
