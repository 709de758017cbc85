"""RegressionPicture: the curves that a model draws through a few points, as a picture in TensorBoard."""

from typing import Protocol, runtime_checkable

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule
from torch import Tensor

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.argument_types import check_at_least
from fewshot_pl.callbacks.adaptation_curve import adaptation_outputs, shown_steps
from fewshot_pl.callbacks.validation_picture import ValidationPicture
from fewshot_pl.episode import Episode

_TARGET, _SUPPORT, _SAMPLE = "#8a8f98", "#3565b0", "#2e9e4f"
_NUM_X = 200  # points of a drawn curve
_MAX_CURVES = 6  # of the predictions before and after each inner step


@runtime_checkable
class _Samples(Protocol):
    """A model that samples several functions for a task."""

    def sampled_outputs(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """The outputs [S, n, D] of S sampled functions."""


class RegressionPicture(ValidationPicture):
    """Writes tasks of regression from one number to one number to TensorBoard, under ``val/regression``, as curves.

    Args:
        every_n_epochs: epochs from one picture to the next.
        max_tasks: tasks shown, side by side.
    """

    tag = "val/regression"

    def __init__(self, every_n_epochs: int = 1, max_tasks: int = 3) -> None:
        super().__init__(every_n_epochs)
        check_at_least(f"{type(self).__name__}: ", 1, max_tasks=max_tasks)
        self.max_tasks = max_tasks

    def figure(self, pl_module: LightningModule, episode: Episode, logits: Tensor) -> Figure | None:
        of_curves = episode.is_regression and episode.num_ways == 1 and episode.query_x[0, 0].numel() == 1
        if not of_curves or not isinstance(pl_module, FewShotAlgorithm):
            return None
        return regression_figure(pl_module, episode, self.max_tasks)


def regression_figure(model: FewShotAlgorithm, episode: Episode, max_tasks: int = 3) -> Figure:
    """The first tasks of an Episode: target and support points, and the model's curve before and after inner steps.

    For a model that samples functions (``sampled_outputs``), those of the last step are drawn instead, with their mean
    and a band of two standard deviations.

    Args:
        model: evaluated in its current mode.
        episode: x [T, n, 1, 1, 1] and targets [T, n, 1].
        max_tasks: tasks shown.
    """
    num_tasks = min(max_tasks, episode.num_tasks)
    figure = Figure(figsize=(4.2 * num_tasks, 3.4), dpi=100, facecolor="white", layout="constrained")
    for index in range(num_tasks):
        task = episode.tasks(slice(index, index + 1))
        axes = figure.add_subplot(1, num_tasks, index + 1)
        low, high = (extreme(torch.cat([task.support_x, task.query_x], 1)) for extreme in (torch.min, torch.max))
        # In the task's own precision: Lightning's precision context has ended, so nothing is converted here.
        x = torch.linspace(float(low), float(high), _NUM_X, dtype=task.query_x.dtype, device=task.query_x.device)
        with torch.no_grad():
            _draw_curves(axes, model, task, x)
        _draw_points(axes, task)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def _draw_points(axes: Axes, task: Episode) -> None:
    x, order = _drawn(task.query_x).flatten().sort()
    axes.plot(x, _drawn(task.query_y).flatten()[order], ".:", color=_TARGET, label="target", zorder=1)
    support = _drawn(task.support_x).flatten(), _drawn(task.support_y).flatten()
    axes.plot(*support, "^", color=_SUPPORT, markersize=8, label="support", zorder=4)


def _draw_curves(axes: Axes, model: FewShotAlgorithm, task: Episode, x: Tensor) -> None:
    task = task._replace(query_x=x[None, :, None, None, None])
    if isinstance(model, _Samples):
        (samples,) = model.map_tasks(lambda model, *inputs: model.sampled_outputs(*inputs), *task[:3])
        _draw_samples(axes, _drawn(x), _drawn(samples[0, ..., 0]))
        return
    curves = _drawn(adaptation_outputs(model, task)[0, ..., 0])  # [S+1, n]
    last = len(curves) - 1
    for step in shown_steps(last, _MAX_CURVES):
        color = colormaps["YlGn"](0.35 + 0.65 * step / max(last, 1))
        axes.plot(_drawn(x), curves[step], color=color, linestyle="-" if step else "--", label=_steps(step), zorder=2)


def _draw_samples(axes: Axes, x: Tensor, samples: Tensor) -> None:
    """Sampled functions [S, n], their mean, and two standard deviations around it."""
    mean, deviation = samples.mean(0), samples.std(0, correction=0)
    axes.fill_between(x, mean - 2 * deviation, mean + 2 * deviation, color=_SAMPLE, alpha=0.15, linewidth=0)
    axes.plot(x, samples.T, color=_SAMPLE, alpha=0.4, linewidth=0.7)
    axes.plot(x, mean, color=_SAMPLE, label=f"mean of {len(samples)} samples", zorder=3)


def _steps(number: int) -> str:
    return "before adaptation" if number == 0 else f"after {number} step{'s' * (number > 1)}"


def _drawn(values: Tensor) -> Tensor:
    """Values as matplotlib takes them, which does not support bfloat16."""
    return values.float().cpu()
