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

_FIGURES = ("accuracy", "mse", "ci95", "nll", "ece", "brier", "loss")


def result_of(
    model: FewShotAlgorithm, data: EpisodicDataModule, metrics: Mapping[str, float], split: str, wall_time: float
) -> dict[str, Any]:
    """The result of an evaluation as plain values; accuracies are fractions, NLL is in nats, times are seconds."""
    return {
        "algorithm": type(model).__name__,
        "data": type(data).__name__,
        "split": split,
        "num_ways": data.eval_size.num_ways,
        "num_shots": data.eval_size.num_shots,
        "num_queries": data.eval_size.num_queries,
        "num_episodes": data.num_episodes[split],
        **{name: float(metrics[f"{split}/{name}"]) for name in _FIGURES if f"{split}/{name}" in metrics},
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


def figures_of(result: dict[str, Any]) -> list[str]:
    """The names of the figures that a result holds: those of a classification, or of a regression."""
    return [name for name in _FIGURES if name in result]


def print_result(result: dict[str, Any]) -> None:
    """Print the table of a result."""
    title = f"{result['algorithm']} on {result['data']}, {result['split']} split"
    caption = f"{result['num_episodes']} episodes of seed {result['episode_seed']}, norm: {result['norm']}"
    table = Table(title=title, caption=caption, min_width=len(title))  # so that the title is one line
    cells = _cells(result)
    for name in cells:
        table.add_column(name)
    table.add_row(*cells.values())
    Console().print(table)


def _cells(result: dict[str, Any]) -> dict[str, str]:
    """The table's cells by column."""
    if "mse" in result:
        mse = {"MSE": f"{result['mse']:.3f}", "95% CI": f"± {result['ci95']:.3f}"}
        return {"task": f"{result['num_shots']} points", **mse}
    return {
        "task": f"{result['num_ways']}-way {result['num_shots']}-shot",
        "accuracy": f"{100 * result['accuracy']:.2f} %",
        "95% CI": f"± {100 * result['ci95']:.2f}",
        "NLL": f"{result['nll']:.3f}",
        "ECE": f"{100 * result['ece']:.2f} %",
        "Brier": f"{result['brier']:.3f}",
    }


def _accelerator(model: FewShotAlgorithm) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type


def _plain(parameters: Any) -> dict[str, Any]:
    return {
        name: value if isinstance(value, int | float | str | bool | None) else list(value)
        for name, value in parameters.items()
    }
