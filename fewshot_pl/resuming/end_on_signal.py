"""EndOnSignal: an evaluation that ends at once when it is told to."""

from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

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
        end_on_signals(trainer, "evaluation", "give the same command again")


def end_on_signals(trainer: Trainer, what: str, cure: str) -> None:
    """Let signals end what a Trainer does now at once, in all its processes.

    Args:
        trainer: that does it.
        what: what it is called.
        cure: what to do then.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
            launcher.kill(number)  # who told this process alone knows of no others
        raise Stopped(f"{signal_name(number)} stopped the {what}: {cure}", number)

    answer(ending_signals(trainer), end)
