"""The progress of a running training: a bar on a terminal, lines of text in a log file.

Lightning reads every ``prog_bar=True`` value back from the device after every batch. The classes here instead take
the tensors that Lightning keeps in ``callback_metrics``, and read them only when they show them, so an algorithm
needs no ``prog_bar=True``.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
    RichProgressBarTheme,
)
from pytorch_lightning.utilities.types import STEP_OUTPUT
from rich import get_console
from rich.progress import ProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from fewshot_pl.episode import Episode
from fewshot_pl.step_log import StepLog

RATE = "train/episodes_per_s"
_SHOWN = ("train/loss", "train/accuracy", RATE, "val/accuracy", "val/mse")
_SECONDS_BETWEEN_READS = 0.5


def progress_bar() -> ProgressBar:
    """EpisodeBar on a terminal, EpisodeLines where the output goes to a file or a pipe."""
    return EpisodeBar() if sys.stdout.isatty() and not get_console().is_dumb_terminal else EpisodeLines()


def metric_lines(metrics: Mapping[str, float | str]) -> dict[str, str]:
    """One line per stage, as in {"train": "loss=0.512 accuracy=0.810", "val": "accuracy=0.790"}.

    Args:
        metrics: values by name, "stage/metric" or just "metric".
    """
    lines: dict[str, list[str]] = {}
    for name, value in metrics.items():
        stage, _, metric = name.rpartition("/")
        if name == RATE:
            text = f"episodes/s={value:.1f}"
        else:
            text = f"{metric}={value}" if isinstance(value, str) else f"{metric}={value:.3f}"
        lines.setdefault(stage or "other", []).append(text)
    return {stage: " ".join(texts) for stage, texts in lines.items()}


class EpisodeRate(Callback):
    """Logs training episodes per second, over all devices, as ``train/episodes_per_s``.

    Measures wall-clock time from batch to batch: waiting for data counts; validation and checkpoints after it do not.
    Never waits for the device: a single batch's time may only be that of its launch, but the window's mean is right.

    Args:
        window: batches to average over.
    """

    def __init__(self, window: int = 50) -> None:
        self._batches: deque[tuple[float, int]] = deque(maxlen=window)  # (seconds, episodes)
        self._since: float | None = None
        self._step_log = StepLog()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, Episode) or self._since is None:
            return
        now = time.perf_counter()
        self._batches.append((now - self._since, batch.num_tasks * trainer.world_size))
        self._since = now
        if not self._step_log.is_due(trainer, trainer.global_step):
            return
        seconds, episodes = map(sum, zip(*self._batches, strict=True))
        # A tensor on the host: Lightning would copy a number to the device and wait for it.
        rate = torch.tensor(episodes / max(seconds, 1e-9))
        pl_module.log(RATE, rate, on_step=True, on_epoch=False, prog_bar=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = None


class EpisodeBar(RichProgressBar):
    """Lightning's rich bar, with a line for training and one for validation beside it; fits 80 columns."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4, theme=RichProgressBarTheme(metrics="", metrics_text_delimiter="\n"))
        self._metrics: dict[str, int | str | float | dict[str, float]] = {}
        self._next_read = 0.0

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        now = time.monotonic()
        if trainer.validating or now >= self._next_read:
            self._next_read = now + _SECONDS_BETWEEN_READS
            self._metrics = {**metric_lines(_shown_metrics(trainer))}
        return self._metrics

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        return [
            TextColumn("{task.description}"),
            CustomBarColumn(bar_width=16, complete_style="#3565b0", finished_style="#2e9e4f"),
            BatchesProcessedColumn(style=""),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        ]


class EpisodeLines(ProgressBar):
    """Prints one line per validation, or per epoch if nothing is validated: for logs and pipes.

    Loss and training accuracy are means of what ``training_step`` returned over the batches since the previous line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self._sums: dict[str, Tensor] = {}
        self._num_batches: Counter[str] = Counter()  # not every batch has every figure

    def enable(self) -> None:
        self.is_enabled = True

    def disable(self) -> None:
        self.is_enabled = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_enabled or not isinstance(outputs, Mapping):
            return
        # Lightning has divided the loss by the number of batches per step.
        for name, weight in (("loss", trainer.accumulate_grad_batches), ("accuracy", 1)):
            if name in outputs:
                self._sums[f"train/{name}"] = self._sums.get(f"train/{name}", 0) + weight * outputs[name]
                self._num_batches[f"train/{name}"] += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._print_line(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        if not self.is_enabled:
            return
        means = {name: (total / self._num_batches[name]).item() for name, total in self._sums.items()}
        lines = metric_lines({**_shown_metrics(trainer), **means})
        progress = f"epoch {trainer.current_epoch}  step {trainer.global_step}"
        stages = "".join(f"  {stage}: {line}" for stage, line in lines.items())
        self.print(progress + stages, flush=True)
        self._sums, self._num_batches = {}, Counter()


def _shown_metrics(trainer: Trainer) -> dict[str, float | str]:
    """The metrics in _SHOWN that exist by now, then any other that was logged with ``prog_bar=True``."""
    known = trainer.callback_metrics
    shown: dict[str, float | str] = {name: known[name].item() for name in _SHOWN if name in known}
    return {**shown, **{name: value for name, value in trainer.progress_bar_metrics.items() if name not in shown}}
