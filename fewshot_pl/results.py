"""What a run prints and saves: accuracy with its interval and everything needed to repeat it."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table

import fewshot_pl
from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.whole_files import save_text

_FIGURES = ("accuracy", "mse", "ci95", "nll", "ece", "brier", "loss")


def result_of(
    model: FewShotAlgorithm,
    data: EpisodicDataModule,
    trainer: Trainer,
    split: str,
    wall_time: float,
) -> dict[str, Any]:
    """The result of an evaluation as plain values; accuracies are fractions, NLL is in nats, times are seconds.

    ``ci95`` is None if there was only one episode.

    Args:
        model: the evaluated model.
        data: the benchmark whose episodes it was evaluated on.
        trainer: the one that evaluated it; it still knows the device, whereas the model is back in main memory.
        split: the split of the episodes.
        wall_time: of all the work behind the result.
    """
    metrics = trainer.callback_metrics
    num_episodes = int(metrics[f"{split}/num_episodes"])
    figures = {name: float(metrics[f"{split}/{name}"]) for name in _FIGURES if f"{split}/{name}" in metrics}
    return {
        "algorithm": type(model).__name__,
        "data": type(data).__name__,
        "split": split,
        **_sizes(data),
        "num_episodes": num_episodes,
        **figures,
        "ci95": figures["ci95"] if num_episodes > 1 else None,
        "norm": model.norm_mode,
        "episode_seed": data.seed,
        "wall_time_s": round(wall_time, 1),
        "versions": versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {_name(trainer.strategy.root_device)}",
        "model_parameters": dict(model.hparams),
        "data_parameters": dict(data.hparams),
    }


def _sizes(data: EpisodicDataModule) -> dict[str, int | None]:
    """Ways, shots and queries of every task; None where tasks differ in them."""
    return {
        name: None if data.is_variable else getattr(data.eval_size, name)
        for name in ("num_ways", "num_shots", "num_queries")
    }


def versions() -> dict[str, str]:
    """The versions of the software that the figures depend on."""
    return {
        "fewshot_pl": fewshot_pl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: metadata.version(name) for name in ("pytorch-lightning", "torchmetrics", "torchvision", "numpy")},
    }


def save_result(result: Any, path: Path) -> None:
    """Write one or several results as JSON, atomically."""
    save_text(json.dumps(result, indent=2), path)


def figures_of(result: dict[str, Any]) -> list[str]:
    """The names of the figures that a result holds: those of a classification, or of a regression."""
    return [name for name in _FIGURES if result.get(name) is not None]


def print_result(result: dict[str, Any]) -> None:
    """Print the table of a result."""
    title = f"{result['algorithm']} on {result['data']}, {result['split']} split"
    print_table(title, f"{episodes_of(result)}, norm: {result['norm']}", [result_cells(result)])


def episodes_of(result: dict[str, Any]) -> str:
    """Which episodes a result is of: "600 episodes of seed 0"."""
    return f"{counted_episodes(result['num_episodes'])} of seed {result['episode_seed']}"


def counted_episodes(count: int) -> str:
    """A number of episodes in words: "600 episodes"."""
    return "1 episode" if count == 1 else f"{count} episodes"


def print_table(title: str, caption: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table from its rows, which map columns to cells."""
    table = Table(title=title, caption=caption, min_width=len(title))  # to keep the title on one line
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*row.values())
    Console(markup=False).print(table)


def task_name(result: dict[str, Any]) -> str:
    """The kind of tasks in a result: "5-way 1-shot", "10 points" (regression), or "variable ways and shots"."""
    if (shots := result["num_shots"]) is None:
        return "variable ways and shots"
    return f"{shots} points" if "mse" in result else f"{result['num_ways']}-way {shots}-shot"


def result_cells(result: dict[str, Any]) -> dict[str, str]:
    """The cells of a result's table row, by column."""
    if "mse" in result:
        return {
            "task": task_name(result),
            "MSE": f"{result['mse']:.3f}",
            "95% CI": _interval_cell(result["ci95"], ".3f"),
        }
    return {
        "task": task_name(result),
        "accuracy": f"{100 * result['accuracy']:.2f} %",
        "95% CI": _interval_cell(result["ci95"], ".2f", scale=100),
        "NLL": f"{result['nll']:.3f}",
        "ECE": f"{100 * result['ece']:.2f} %",
        "Brier": f"{result['brier']:.3f}",
    }


def _interval_cell(ci95: float | None, form: str, scale: int = 1) -> str:
    return "–" if ci95 is None else f"± {scale * ci95:{form}}"


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
