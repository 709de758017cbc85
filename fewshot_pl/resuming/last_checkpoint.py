"""LastCheckpoint: the state to resume from."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor

from fewshot_pl.resuming.progress import is_resumable, settle, validation_is_due


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: written after every validation and epoch, and when an exception ends training between steps.

    A step that never ended may have changed statistics, or half of the weights: then the file stays as it was.
    Training that is resumed from it ends with the same weights, to the bit, as if it had never stopped. Has to stand
    behind all callbacks whose state it saves.
    """

    def __init__(self) -> None:
        super().__init__(filename=self.CHECKPOINT_NAME_LAST, enable_version_counter=False, save_on_exception=True)
        self._is_owed = False  # at the next moment from which training could go on
        self._has_validated = False  # since the last step
        self._metrics: dict[str, Tensor] = {}  # of the training that is resumed

    @property
    def path(self) -> Path:
        """Where the file is or will be."""
        return Path(self.format_checkpoint_name({}))

    # When it is written ------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # Of validations before: a schedule or a checkpoint may wait for one.
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in self._metrics.items()})
        if any(
            map(_has_stopped, trainer.early_stopping_callbacks)
        ):  # just before the end, of which Lightning keeps nothing
            trainer.should_stop = True
        if trainer.fit_loop.restarted_mid_epoch:
            _begin_epoch(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._has_validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if self._is_owed or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._has_validated = True  # what follows changes the state of callbacks,
            self._last_global_step_saved = -1  # so that what was saved after the same step is no longer all

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)
        # Else Lightning would leave out a schedule's step, as it does not know the figures of before.
        trainer.fit_loop._restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_owed and not self._should_skip_saving_checkpoint(trainer):
            self._save_checkpoint(trainer, str(self.path))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        is_alone = trainer.world_size == 1  # else the others, which may know nothing of it, would be waited for
        at_once = isinstance(exception, KeyboardInterrupt | OSError)  # a second Ctrl-C, or a disk that is full
        if self.save_on_exception and is_alone and not at_once and not self._has_validated:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the file, if training could go on from this moment, or else as soon as it can."""
        if self._should_skip_saving_checkpoint(trainer):
            return
        self._is_owed = not is_resumable(trainer)
        if not self._is_owed:
            self._save_checkpoint(trainer, str(self.path))

    # What it holds -----------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        settle(checkpoint["loops"], validation_is_due(trainer) and not self._has_validated)
        checkpoint["callback_metrics"] = {name: value.cpu() for name, value in trainer.callback_metrics.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._metrics = checkpoint.get("callback_metrics", {})
        self._last_global_step_saved = checkpoint["global_step"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass  # Lightning's own, which says where files were: this one is written where it belongs now


def _begin_epoch(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let callbacks set what is of an epoch, which Lightning leaves out where training goes on within one.

    So batches would be accumulated as in the first epoch, and averaging would have no schedule and no average.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler | StochasticWeightAveraging):
            callback.on_train_epoch_start(trainer, pl_module)


def _has_stopped(stopping: EarlyStopping) -> bool:
    """Whether a validation of before has ended training."""
    return stopping.stopped_epoch > 0 or stopping.wait_count >= max(stopping.patience, 1)
