"""BestCheckpoint: the checkpoint that validation chooses."""

import os
import re
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from fewshot_pl.errors import InputError
from fewshot_pl.resuming.changed_settings import changed_settings

_LESS_IS_BETTER = "loss", "nll", "ece", "brier", "mse", "ci95"  # endings of names of figures
_MORE_IS_BETTER = ("accuracy",)


class BestCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that saves as soon as a validation has ended, not only after the end of the epoch.

    From there Lightning resumes exactly. From the end of an epoch it would skip what follows, such as the step of a
    schedule that watches a figure, and with ``max_steps`` an epoch's episodes. Without validation, it saves at the end
    of the epoch. A save that is due between two validations waits for the next, so that each kept file's score is that
    of its weights. The best score so far is kept even if the folder has been moved, or is given by another path. It is
    forgotten, by early stopping too, if training is resumed with other settings of what validation measures. If the
    best checkpoint's file is missing then, validation chooses anew.

    Args:
        monitor: the figure that chooses the best checkpoint, such as val/accuracy.
        mode: whether the lowest or the highest figure is the best; auto knows this for the figures logged here.
        kwargs: other arguments of ModelCheckpoint.

    Raises:
        InputError: mode is auto, which does not know the figure.
    """

    _begun_at = 0  # the number of steps when the batch began
    _is_measured = False  # whether the last validation measured the weights as they are now
    _unstopped: tuple[tuple[EarlyStopping, dict[str, Any]], ...] = ()  # early stopping as if nothing was measured yet

    def __init__(
        self, *, monitor: str | None = None, mode: Literal["auto", "min", "max"] = "auto", **kwargs: Any
    ) -> None:
        super().__init__(monitor=monitor, mode=_better_end(monitor) if mode == "auto" else mode, **kwargs)

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.save_top_k not in (0, 1) and self.filename is not None:  # Lightning's own name has the step
            self.filename = _with_step(self.filename)

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        if self._defer_save_until_validation and trainer.enable_validation:
            return False
        asked = self._save_on_train_epoch_end
        return not trainer.enable_validation if asked is None else asked

    def _has_old_figure(self, trainer: Trainer) -> bool:
        """Whether the figure that chooses is of validation, which has not measured the weights as they are now."""
        of_validation = self.monitor is not None and self.monitor.startswith("val/") and trainer.enable_validation
        return of_validation and not self._is_measured

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        if self._has_old_figure(trainer):  # without it, Lightning lets a save in mid-epoch wait for validation
            candidates.pop(str(self.monitor), None)
        return candidates

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self._defer_save_until_validation = self._has_old_figure(trainer)
        if self._defer_save_until_validation:
            return
        left_out = self.monitor not in monitor_candidates and not trainer.enable_validation
        if not (self.monitor and left_out):  # of a figure that nobody measures, Lightning would ask who logs it
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def state_dict(self) -> dict[str, Any]:
        waits = {"is_measured": self._is_measured, "is_due": self._defer_save_until_validation}
        return super().state_dict() | waits

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._is_measured = state_dict.get("is_measured", False)  # older checkpoints do not know it
        self._defer_save_until_validation = state_dict.get("is_due", False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["callbacks"]
        measured = changed_settings(checkpoint, pl_module, getattr(trainer, "datamodule", None)).measured
        if measured:
            self._forget_scores(trainer, states)
        elif self.state_key not in states:  # which Lightning makes of the figure, among others
            measured = ["other --checkpoint settings than it began with"]
        if measured:
            rank_zero_info(f"Training goes on with {', '.join(measured)}: validation chooses the best checkpoint anew")
        if self.state_key in states:
            states[self.state_key] = self._found(trainer, states[self.state_key])

    def _found(self, trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
        """This callback's state in a checkpoint, with the best checkpoint where it is now, or none if it is missing."""
        loaded = Path(trainer.ckpt_path or "").resolve()
        if loaded.parent == Path(self.dirpath or "").resolve():
            # Lightning compares paths as text, and forgets the best score if they differ.
            state = _within(str(self.dirpath), state)
        best = state["best_model_path"]
        if not best or self.file_exists(best, trainer):
            return state
        # Nothing could be tested unless a later validation were better than that of the missing weights.
        rank_zero_warn(f"The best checkpoint so far, {best}, is missing: validation chooses the best one anew")
        return _unscored(state) | {"best_model_path": ""}

    def _forget_scores(self, trainer: Trainer, states: dict[str, Any]) -> None:
        """Remove from the callbacks' states in a checkpoint what new figures would be compared with.

        The path of the best checkpoint stays, for a training that ends before its next validation.
        """
        self._unstopped = tuple((stopping, stopping.state_dict()) for stopping in trainer.early_stopping_callbacks)
        for stopping, _ in self._unstopped:
            states.pop(stopping.state_key, None)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
                states[callback.state_key] = _unscored(states[callback.state_key])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._begun_at = trainer.global_step
        self._is_measured = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step > self._begun_at:  # a batch that only accumulates would make the same step due again
            super().on_train_batch_end(trainer, *args, **kwargs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_measured = not trainer.sanity_checking
        super().on_validation_end(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:  # until now, early stopping may have been shown the last figure from before
            for stopping, state in self._unstopped:
                stopping.load_state_dict(state)
            self._unstopped = ()


def _better_end(figure: str | None) -> Literal["min", "max"]:
    if figure is None or figure.endswith(_LESS_IS_BETTER):
        return "min"
    if figure.endswith(_MORE_IS_BETTER):
        return "max"
    raise InputError(
        f"whether more or less of {figure} is better is not known: pass --checkpoint.mode max or --checkpoint.mode min"
    )


def _with_step(filename: str) -> str:
    """The name of several checkpoints, which would replace each other if it did not say the step."""
    if _has_field(filename, "step"):
        return filename
    return filename + ("-{step}" if _has_field(filename, "epoch") else "-{epoch}-{step}")


def _has_field(filename: str, field: str) -> bool:
    return re.search(rf"{{{field}[:}}]", filename) is not None


def _unscored(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a ModelCheckpoint without what new figures would be compared with."""
    return state | {"best_model_score": None, "best_k_models": {}, "kth_best_model_path": "", "is_measured": False}


def _within(folder: str, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a ModelCheckpoint whose files are in ``folder`` now."""

    def moved(path: str) -> str:
        # File names may contain folders, as figures' names contain slashes.
        inside = os.path.relpath(path, state["dirpath"]) if path else ""
        return path if inside.startswith(os.pardir) or not path else str(Path(folder) / inside)

    paths = {name: moved(state[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
    best = {moved(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "best_k_models": best, "dirpath": folder}
