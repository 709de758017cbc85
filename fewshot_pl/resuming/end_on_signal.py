"""EndOnSignal: ends an evaluation at once on a signal."""

from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from fewshot_pl.errors import Stopped
from fewshot_pl.resuming.slurm import ending_signals
from fewshot_pl.signals import answer, signal_name


class EndOnSignal(Callback):
    """Ends an evaluation at once on Ctrl-C, SIGTERM, or SLURM's signal that the job is about to end.

    Lightning's own handlers save a checkpoint into the working directory, or communicate with other processes in the
    middle of anything.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    def _listen(self, trainer: Trainer) -> None:
        end_on_signals(trainer, "evaluation", "give the same command again")


def end_on_signals(trainer: Trainer, what: str, cure: str) -> None:
    """Let signals end at once what a Trainer is doing, in all its processes.

    Args:
        trainer: the Trainer.
        what: what it is doing, such as "evaluation".
        cure: what the user can do then.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
            launcher.kill(number)  # the sender may know only of this process
        raise Stopped(f"{signal_name(number)} stopped the {what}: {cure}", number)

    answer(ending_signals(trainer), end)
