"""EndOnSignal: an evaluation that ends at once when it is told to."""

from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer

from fewshot_pl.errors import Stopped
from fewshot_pl.resuming.slurm import ending_signals
from fewshot_pl.signals import answer, signal_name


class EndOnSignal(Callback):
    """Ends an evaluation at once when Ctrl-C, SIGTERM, or SLURM's signal of a job's near end has come.

    Lightning's handlers save a checkpoint into the working directory, or talk to other processes in the middle of
    anything.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def _listen(self, trainer: Trainer) -> None:
        answer(ending_signals(trainer), self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise Stopped(f"{signal_name(number)} stopped the evaluation: give the same command again", number)
