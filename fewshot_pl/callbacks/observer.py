"""Observer: the base of callbacks that write to TensorBoard about a training without changing it."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fewshot_pl.argument_types import check_at_least
from fewshot_pl.episode import Episode


@runtime_checkable
class KnowsClasses(Protocol):
    """A data module with fixed lists of image episodes that knows which classes they hold."""

    num_episodes: dict[str, int]

    def class_names(self, split: str) -> list[str]:
        """The names of a split's classes [C]."""

    def class_examples(self, split: str, classes: Tensor) -> Tensor:
        """An image [n, C, H, W] of each of some classes [n]."""

    def fixed_batches(self, split: str) -> Iterable[tuple[int, int, int]]:
        """The epoch, first episode and number of episodes of each of this process's batches."""

    def fixed_classes(self, split: str, first: int, count: int | None) -> Tensor:
        """The classes [E, N] of ``count`` episodes of the list from ``first`` on, or of all from there."""

    def fixed_episodes(self, split: str, first: int, count: int) -> Episode:
        """The tasks of ``count`` episodes of the list from ``first`` on."""


class Observer(Callback):
    """Looks at the validation of every n-th epoch; never draws a random number.

    Args:
        every_n_epochs: epochs from one look to the next.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        check_at_least(f"{type(self).__name__}: ", 1, every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs

    def is_due(self, trainer: Trainer) -> bool:
        """Whether to look at the current validation; the same for every process."""
        # Counted as Lightning counts check_val_every_n_epoch, so that n = 5 meets the validations of every 5th epoch.
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 and not trainer.sanity_checking
        return due and any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def writers(trainer: Trainer) -> list[SummaryWriter]:
    """The writers to TensorBoard; none except in the first process."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def show(trainer: Trainer, tag: str, figure: Figure) -> None:
    """Write a figure to TensorBoard."""
    pixels = figure_pixels(figure)
    for writer in writers(trainer):
        writer.add_image(tag, pixels, trainer.global_step, dataformats="HWC")


def figure_pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as RGB [H, W, 3]."""
    canvas: Any = FigureCanvasAgg(figure)  # Any: matplotlib types its figures, not its canvases
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
