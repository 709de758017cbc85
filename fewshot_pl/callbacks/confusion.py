"""ConfusionPicture: the classes that are confused most often, as a picture in TensorBoard."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from fewshot_pl.argument_types import check_at_least
from fewshot_pl.callbacks.episode_picture import RIGHT_COLOR, WRONG_COLOR, visible
from fewshot_pl.callbacks.observer import KnowsClasses, Observer, show, writers
from fewshot_pl.episode import Episode
from fewshot_pl.metrics import ClassConfusion

TAG = "val/confusion"
_LONGEST_NAME = 32
_RIGHT, _WRONG = (LinearSegmentedColormap.from_list("shares", ["white", color]) for color in (RIGHT_COLOR, WRONG_COLOR))


class ConfusionPicture(Observer):
    """Writes the most confused classes of each validation to TensorBoard, under ``val/confusion``.

    Counts over all episodes and devices, by class name; nothing is read back from the device before the validation is
    over. Works with every image benchmark.

    Args:
        every_n_epochs: epochs from one picture to the next.
        max_classes: classes shown.
    """

    def __init__(self, every_n_epochs: int = 1, max_classes: int = 12) -> None:
        super().__init__(every_n_epochs)
        check_at_least(f"{type(self).__name__}: ", 2, max_classes=max_classes)
        self.max_classes = max_classes
        self._confusion: ClassConfusion | None = None  # of the current validation
        self._classes: list[Tensor] = []  # [T, N] of each batch

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        self._confusion = None
        if not self.is_due(trainer) or not isinstance(data, KnowsClasses):
            return
        self._confusion = ClassConfusion(len(data.class_names("val"))).to(pl_module.device)
        batches = [data.fixed_classes("val", first, count) for _, first, count in data.fixed_batches("val")]
        self._classes = [classes.to(pl_module.device) for classes in batches]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._confusion is None or not isinstance(batch, Episode):
            return
        if isinstance(outputs, Mapping) and "logits" in outputs:  # a validation_step of a user's may give others
            self._confusion.update(outputs["logits"], batch.query_y, self._classes[batch_idx])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._confusion is None:
            return
        answered, offered = (counts.cpu().numpy() for counts in self._confusion.compute())  # waits for every process
        self._confusion, self._classes = None, []
        if writers(trainer) and (chosen := most_confused(answered, self.max_classes)):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            names = data.class_names("val")
            examples = data.class_examples("val", torch.tensor(chosen))
            title = f"{len(chosen)} most confused of {len(names)} classes"
            block = np.ix_(chosen, chosen)
            figure = confusion_figure(answered[block], offered[block], [names[index] for index in chosen], examples)
            figure.suptitle(f"{title}; {_right(answered)}", fontsize=12, weight="bold")
            show(trainer, TAG, figure)


def most_confused(answered: NDArray[np.int64], max_classes: int) -> list[int]:
    """The classes of the pairs that are confused most often, in either direction; a pair is adjacent where possible.

    Args:
        answered: counts [C, C] of answers by true class.
        max_classes: maximum number of classes; fewer if fewer are confused.
    """
    wrong = np.triu(answered + answered.T, 1)
    chosen: list[int] = []
    for pair in np.argsort(-wrong, axis=None, kind="stable"):
        first, second = divmod(int(pair), len(wrong))
        new = [index for index in (first, second) if index not in chosen]
        if not wrong[first, second] or len(chosen) == max_classes:
            break
        if len(chosen) + len(new) <= max_classes:
            chosen += new
    return chosen


def confusion_figure(
    answered: NDArray[np.int64], offered: NDArray[np.int64], names: Sequence[str], examples: Tensor
) -> Figure:
    """The share of each class's queries that were taken for each class, among queries whose task holds both.

    Args:
        answered: counts [k, k] of answers, by true class.
        offered: counts [k, k] of queries whose task holds the second class; cells without any are empty.
        names: names of the k classes.
        examples: an image [k, C, H, W] of each class.
    """
    count = len(names)
    shares = np.where(offered > 0, answered / np.maximum(offered, 1), np.nan)
    size = 2.6 + 0.52 * count
    figure = Figure(figsize=(size, size), dpi=100, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    _draw_shares(axes, shares)
    for index, image in enumerate(visible(examples, torch.arange(count))):
        axes.imshow(image, extent=(-1.45, -0.6, index + 0.42, index - 0.42))
        axes.imshow(image, extent=(index - 0.42, index + 0.42, -0.6, -1.45))
    axes.set(xlim=(-1.5, count - 0.5), ylim=(count - 0.5, -1.5), ylabel="true class")
    axes.set_xlabel("taken for, % of the queries in tasks that hold both classes")
    shown = [_short(name) for name in names]
    axes.set_xticks(range(count), shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=8, parse_math=False)
    axes.set_yticks(range(count), shown, fontsize=8, parse_math=False)
    return figure


def _draw_shares(axes: Axes, shares: NDArray[np.float64]) -> None:
    diagonal = np.eye(len(shares), dtype=bool)
    axes.imshow(np.ones_like(shares), cmap="gray", vmin=0, vmax=1.06)
    axes.imshow(np.where(diagonal, shares, np.nan), cmap=_RIGHT, vmin=0, vmax=1.3)
    axes.imshow(np.where(diagonal, np.nan, shares), cmap=_WRONG, vmin=0, vmax=0.8)
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=_ink(float(share)))
    for line in np.arange(len(shares) + 1) - 0.5:
        axes.plot((line, line), (-0.5, len(shares) - 0.5), color="white", linewidth=1.5)
        axes.plot((-0.5, len(shares) - 0.5), (line, line), color="white", linewidth=1.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _right(answered: NDArray[np.int64]) -> str:
    return f"{answered.trace() / answered.sum():.1%} of {answered.sum():,} queries right"


def _ink(share: float) -> str:
    return "#b9bdc4" if share == 0 else "black"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
