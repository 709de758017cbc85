"""ValidationPicture: the base of the pictures that validation writes to TensorBoard."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from fewshot_pl.episode import Episode


class ValidationPicture(Callback, ABC):
    """Writes a picture of the first validation batch to TensorBoard; only looks, never draws a random number.

    Args:
        every_n_epochs: epochs from one picture to the next.
    """

    tag: str  # of the picture in TensorBoard

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"{type(self).__name__}: every_n_epochs must be at least 1.")
        self.every_n_epochs = every_n_epochs

    @abstractmethod
    def figure(self, pl_module: LightningModule, episode: Episode, logits: Tensor) -> Figure | None:
        """What to show of an Episode whose queries were given these outputs [T, N*Q, N]; None where nothing fits."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Counted as Lightning counts check_val_every_n_epoch, so that n = 5 meets the validations of every 5th epoch.
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0 and batch_idx == 0 and dataloader_idx == 0
        if not due or trainer.sanity_checking or not trainer.is_global_zero:
            return
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or not isinstance(batch, Episode):
            return
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            return
        if batch.holds_features:  # the images behind them: the first validation batch holds the first of the list
            batch = trainer.datamodule.fixed_episodes("val", 0, batch.num_tasks)  # type: ignore[attr-defined]
        figure = self.figure(pl_module, batch, outputs["logits"])
        if figure is not None:
            pixels = figure_pixels(figure)
            for logger in loggers:
                logger.experiment.add_image(self.tag, pixels, trainer.global_step, dataformats="HWC")


def figure_pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as RGB [H, W, 3]."""
    canvas: Any = FigureCanvasAgg(figure)  # Any: matplotlib types its figures, not its canvases
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
