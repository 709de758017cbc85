"""The bases of callbacks that show the first batch of each validation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning_fabric.utilities import move_data_to_device
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from fewshot_pl.callbacks.observer import Observer, show, writers
from fewshot_pl.episode import Episode


class FirstBatchObserver(Observer, ABC):
    """Looks at the first batch of each validation, if it is an Episode and its step returned ``"logits"``."""

    @abstractmethod
    def look(self, trainer: Trainer, pl_module: LightningModule, episode: Episode, logits: Tensor) -> None:
        """Write about an Episode and the outputs [T, N*Q, N] for its queries; called only in the first process."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        is_first = batch_idx == 0 and dataloader_idx == 0
        if not is_first or not self.is_due(trainer) or not writers(trainer) or not isinstance(batch, Episode):
            return
        if not isinstance(outputs, Mapping) or "logits" not in outputs:
            return
        if batch.holds_features:  # get their images: the first validation batch holds the first episodes of the list
            images = trainer.datamodule.fixed_episodes("val", 0, batch.num_tasks)  # type: ignore[attr-defined]
            batch = move_data_to_device(images, pl_module.device)
        self.look(trainer, pl_module, batch, outputs["logits"])


class ValidationPicture(FirstBatchObserver):
    """Writes a picture of the first validation batch to TensorBoard; only looks, never draws a random number.

    Args:
        every_n_epochs: epochs from one picture to the next.
    """

    tag: str  # of the picture in TensorBoard

    @abstractmethod
    def figure(self, pl_module: LightningModule, episode: Episode, logits: Tensor) -> Figure | None:
        """The figure of an Episode and the outputs [T, N*Q, N] for its queries; None if the picture does not apply."""

    def look(self, trainer: Trainer, pl_module: LightningModule, episode: Episode, logits: Tensor) -> None:
        figure = self.figure(pl_module, episode, logits)
        if figure is not None:
            show(trainer, self.tag, figure)
