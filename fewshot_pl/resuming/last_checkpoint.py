"""LastCheckpoint: the state to resume from."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor

from fewshot_pl.resuming.progress import is_resumable, settle, validation_is_due
from fewshot_pl.resuming.same_optimizers import check_same_optimizers

_CHANGED_BY_VALIDATION = "loops", "callback_metrics", "callbacks"


class LastCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt`` after every validation and epoch, and where training stops or fails between two steps.

    A stop waits while gradients accumulate, as Lightning would drop them. An interrupted step may have changed
    statistics, or half of the weights: then the file is left as it was.
    Training that is resumed from it ends with the same weights, as if it had never stopped: bit for bit, if operations
    repeat themselves, as they do on a CPU. Has to come after all callbacks whose state it saves.
    """

    def __init__(self) -> None:
        super().__init__(filename=self.CHECKPOINT_NAME_LAST, enable_version_counter=False, save_on_exception=True)
        self._is_owed = False  # to be written at the next moment from which training could resume
        self._stop_waits = False  # for that moment too
        self._at_stop: dict[str, Any] | None = None  # what the file holds from a stop between two validations
        self._has_validated = False  # since the last step
        self._metrics: dict[str, Tensor] = {}  # from the checkpoint that is resumed
        self._arguments: dict[str, Any] = {}  # of the algorithm, from there too

    @property
    def path(self) -> Path:
        """Where the file is or will be."""
        return Path(self.format_checkpoint_name({}))

    # When it is written ------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        check_same_optimizers(trainer, self._arguments)
        # Figures of earlier validations: a schedule or a checkpoint may wait for one.
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in self._metrics.items()})
        if any(
            map(_has_stopped, trainer.early_stopping_callbacks)
        ):  # then training was about to end, which Lightning does not save
            trainer.should_stop = True
        if trainer.fit_loop.restarted_mid_epoch:
            _begin_epoch(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._has_validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        stops = self._stop_waits or (trainer.should_stop and trainer.fit_loop._can_stop_early)
        self._at_stop = {} if stops and is_resumable(trainer) and not validation_is_due(trainer) else None
        if stops or self._is_owed or trainer.global_step == trainer.max_steps:
            self.save(trainer)
        if stops:
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        averages = any(isinstance(one, WeightAveraging) for one in trainer.callbacks)  # type: ignore[attr-defined]
        if averages:  # then the model has the averaged weights until the validation ends, where it may be cut short
            self.save(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._has_validated = True  # callbacks change their state from here on,
            self._last_global_step_saved = -1  # so a file saved after the same step is out of date

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)
        if self._stop_waits:
            self._stop(trainer)
        # Otherwise Lightning would skip a schedule's step, as it does not know the earlier figures.
        trainer.fit_loop._restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_owed and not self._should_skip_saving_checkpoint(trainer):
            self._save_checkpoint(trainer, str(self.path))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        is_alone = trainer.world_size == 1  # otherwise it would wait for others, which may not know of it
        at_once = isinstance(exception, KeyboardInterrupt | OSError)  # a second Ctrl-C, or a full disk
        if self.save_on_exception and is_alone and not at_once and not self._has_validated:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the file if training could resume from this moment, otherwise as soon as it could."""
        if self._should_skip_saving_checkpoint(trainer):
            return
        self._is_owed = not is_resumable(trainer)
        if not self._is_owed:
            self._save_checkpoint(trainer, str(self.path))

    def _stop(self, trainer: Trainer) -> None:
        """Let training stop if it could resume from this moment, otherwise as soon as it could."""
        self._stop_waits = not is_resumable(trainer)
        trainer.should_stop = not self._stop_waits

    # What it holds -----------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        settle(checkpoint["loops"], validation_is_due(trainer) and not self._has_validated)
        checkpoint["callback_metrics"] = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        if self._at_stop is not None:
            self._at_stop = self._at_stop or {name: checkpoint[name] for name in _CHANGED_BY_VALIDATION}
            _return_to(self._at_stop, trainer, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._metrics = checkpoint.get("callback_metrics", {})
        self._arguments = checkpoint.get("hyper_parameters", {})
        self._last_global_step_saved = checkpoint["global_step"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass  # Lightning's state says where files were; this one is written where it belongs now


def _return_to(earlier: dict[str, Any], trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Change a checkpoint to what it held at a stop, except for the best checkpoints, whose files are there.

    Lightning validates once more where training stops, and then ends the epoch. A training that goes on does neither.
    """
    files = {one.state_key for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)}
    states = {key: state for key, state in checkpoint["callbacks"].items() if key in files}
    checkpoint |= earlier | {"callbacks": earlier["callbacks"] | states}


def _begin_epoch(trainer: Trainer, pl_module: LightningModule) -> None:
    """Run the epoch-start hooks of callbacks that Lightning skips when training resumes within an epoch.

    Without them, batches would be accumulated as in the first epoch, and weight averaging would have no schedule and no
    average.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler | StochasticWeightAveraging):
            callback.on_train_epoch_start(trainer, pl_module)


def _has_stopped(stopping: EarlyStopping) -> bool:
    """Whether an earlier validation has ended training."""
    return stopping.stopped_epoch > 0 or stopping.wait_count >= max(stopping.patience, 1)
