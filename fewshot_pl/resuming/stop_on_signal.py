"""StopOnSignal: stops training between two steps on a signal."""

import os
import signal
from types import FrameType
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.types import STEP_OUTPUT

from fewshot_pl.errors import Stopped
from fewshot_pl.resuming.agreement import Agreement
from fewshot_pl.resuming.end_on_signal import end_on_signals
from fewshot_pl.resuming.last_checkpoint import LastCheckpoint
from fewshot_pl.resuming.progress import is_resumable, validation_is_due
from fewshot_pl.resuming.slurm import ending_signals
from fewshot_pl.signals import answer, signal_name

_STOPPING = b"\nStopping after this step, to go on from there; Ctrl-C again stops at once.\n"


class StopOnSignal(Checkpoint):
    """Stops training after a step on SIGTERM, Ctrl-C, or SLURM's signal that the job is about to end.

    Several processes stop at the same step, whichever of them received the signal. ``last`` saves the state. A second
    Ctrl-C acts as usual and interrupts the step. A validation is broken off, unless there are several processes, and
    runs from its start when training resumes. A test ends at once. Has to be the last callback, as those after it are
    no longer called.

    Args:
        last: the callback that saves the state.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self._last = last
        self._agreement = Agreement()
        self._received: signal.Signals | None = None

    # Listening ---------------------------------------------------------------------------------------

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)
        if trainer.world_size > 1 and hasattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"):
            # Lightning's own agreement, which waits for the device at every step.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end_on_signals(trainer, "test", self._cure)

    def _listen(self, trainer: Trainer) -> None:
        """Replace the handlers that Lightning has just installed; at the end it restores the earlier ones.

        Lightning's save a checkpoint in the middle of a step, or communicate with other processes in the middle of
        anything.
        """
        answer(ending_signals(trainer), self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._received is not None:
                raise KeyboardInterrupt
            os.write(2, _STOPPING)  # print might be what was interrupted
        self._received = self._received or signal.Signals(number)

    # Stopping ----------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if is_resumable(trainer):
            self._stop_if_told(trainer, now=validation_is_due(trainer))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.world_size == 1 and is_resumable(trainer):  # with several processes, one may have fewer batches
            self._stop_if_told(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_resumable(trainer):
            self._stop_if_told(trainer, now=True)

    def _stop_if_told(self, trainer: Trainer, now: bool = False) -> None:
        if self._agreement.any_says(self._received is not None, trainer, now):
            self._last.save(trainer)
            number = self._received or signal.SIGTERM
            step = trainer.global_step
            raise Stopped(f"{signal_name(number)} stopped training after step {step}: {self._cure}", number)

    @property
    def _cure(self) -> str:
        return f"pass --ckpt_path {self._last.path} to the same command to go on"


def _nothing() -> None:
    """Takes the place of Lightning's agreement."""
