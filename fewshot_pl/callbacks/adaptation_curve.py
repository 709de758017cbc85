"""AdaptationCurve: how well queries are answered after each inner step, as a picture and as scalars in TensorBoard."""

from typing import Protocol, runtime_checkable

import torch
from lightning_fabric.utilities import move_data_to_device
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.argument_types import check_at_least
from fewshot_pl.callbacks.observer import show, writers
from fewshot_pl.callbacks.validation_picture import FirstBatchObserver
from fewshot_pl.episode import Episode
from fewshot_pl.metrics import episode_accuracy, episode_mse

TAG = "val/adaptation_curve"
_SCALARS = "adaptation"  # their group
_MAX_SCALARS = 11
_TASK, _MEAN, _CHANCE = "#9db8dc", "#1f4e96", "#8a8f98"


@runtime_checkable
class _ValidationTasks(Protocol):
    """A data module with a fixed list of validation tasks."""

    num_episodes: dict[str, int]

    def fixed_episodes(self, split: str, first: int, count: int) -> Episode: ...

    def in_precision(self, episode: Episode) -> Episode: ...


class AdaptationCurve(FirstBatchObserver):
    """Writes query accuracy (in regression, the squared error) before and after each inner step to TensorBoard.

    The picture ``val/adaptation_curve`` has a line for each of the first validation tasks, whatever the batch size, and
    one for their mean; the means are also scalars, ``adaptation/accuracy_after_00_steps`` and so on. Methods without
    steps have neither. If the data module has no fixed list, the tasks are those of the first batch.

    Args:
        every_n_epochs: epochs from one look to the next.
        max_tasks: tasks that are adapted again for the curve.
    """

    def __init__(self, every_n_epochs: int = 1, max_tasks: int = 8) -> None:
        super().__init__(every_n_epochs)
        check_at_least(f"{type(self).__name__}: ", 1, max_tasks=max_tasks)
        self.max_tasks = max_tasks

    def look(self, trainer: Trainer, pl_module: LightningModule, episode: Episode, logits: Tensor) -> None:
        if not isinstance(pl_module, FewShotAlgorithm) or not takes_steps(pl_module):
            return
        tasks, at_once = self._tasks(trainer, pl_module, episode), episode.num_tasks  # what validation has memory for
        starts = range(0, tasks.num_tasks, at_once)
        parts = [adaptation_curves(pl_module, tasks.tasks(slice(start, start + at_once))) for start in starts]
        curves = torch.cat(parts).float().cpu()  # matplotlib knows no bfloat16
        if curves.shape[1] == 1:
            return
        name, chance = ("mse", None) if episode.is_regression else ("accuracy", 1 / episode.num_ways)
        last = curves.shape[1] - 1
        for step in shown_steps(last, _MAX_SCALARS):
            tag = f"{_SCALARS}/{name}_after_{step:0{max(2, len(str(last)))}}_steps"
            for writer in writers(trainer):
                writer.add_scalar(tag, curves[:, step].mean(), trainer.global_step)
        show(trainer, TAG, adaptation_figure(curves, chance))

    def _tasks(self, trainer: Trainer, pl_module: LightningModule, first_batch: Episode) -> Episode:
        """The first tasks of validation, on the model's device."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, _ValidationTasks):
            return first_batch.tasks(slice(self.max_tasks))
        tasks = data.fixed_episodes("val", 0, min(self.max_tasks, data.num_episodes["val"]))
        moved: Episode = move_data_to_device(data.in_precision(tasks), pl_module.device)
        return moved


def adaptation_curves(model: FewShotAlgorithm, episode: Episode) -> Tensor:
    """The query accuracy [T, S+1] of each task before and after each of S steps; in regression, the squared error."""
    outputs = adaptation_outputs(model, episode)
    measure = episode_mse if episode.is_regression else episode_accuracy
    return torch.stack([measure(after, episode.query_y) for after in outputs.unbind(1)], 1)


def adaptation_outputs(model: FewShotAlgorithm, episode: Episode) -> Tensor:
    """The query outputs [T, S+1, N*Q, N] of each task before and after each of S steps."""
    num_ways = episode.num_ways

    def curve(model: FewShotAlgorithm, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return model.adaptation_curve(support_x, support_y, query_x, num_ways)

    with torch.no_grad():
        (outputs,) = model.map_tasks(curve, *episode[:3])
    return outputs


def takes_steps(model: FewShotAlgorithm) -> bool:
    """Whether the algorithm adapts to a task in steps."""
    return type(model).adaptation_curve is not FewShotAlgorithm.adaptation_curve


def adaptation_figure(curves: Tensor, chance: float | None = None) -> Figure:
    """The curve of each task, and their mean.

    Args:
        curves: accuracies [T, S+1], or squared errors.
        chance: the accuracy of guessing; None if these are squared errors.
    """
    figure = Figure(figsize=(5.6, 3.6), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    steps, mean = range(curves.shape[1]), curves.mean(0)
    axes.plot(steps, curves.T, color=_TASK, linewidth=1, alpha=0.8)
    axes.plot(steps, mean, "o-", color=_MEAN, linewidth=2.5, markersize=6 if len(steps) <= 20 else 0)
    if chance is None:
        axes.set(yscale="log" if bool((curves > 0).any()) else "linear", ylabel="mean squared error of the queries")
    else:
        axes.axhline(chance, color=_CHANCE, linestyle=":", linewidth=1.2)
        axes.annotate(
            "chance", (0.99, chance), xycoords=("axes fraction", "data"), color=_CHANCE, ha="right", va="bottom"
        )
        axes.set(ylim=(0, 1.03), ylabel="accuracy of the queries")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("steps on the support")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e8ec")
    axes.spines[["top", "right"]].set_visible(False)
    shown = "{:.3g}" if chance is None else "{:.1%}"
    first, last = shown.format(float(mean[0])), shown.format(float(mean[-1]))
    axes.set_title(f"{first} before, {last} after {len(steps) - 1} steps", loc="left", fontsize=11, weight="bold")
    axes.set_title(f"mean of {len(curves)} tasks", loc="right", fontsize=9, color=_MEAN)
    return figure


def shown_steps(last: int, most: int) -> list[int]:
    """Up to ``most`` of the steps 0 to ``last``, evenly spread, and also the first step."""
    return sorted({round(last * index / (most - 1)) for index in range(most)} | {min(1, last)})
