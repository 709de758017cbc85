"""StepLog: the training steps at which figures are logged."""

import time
from collections.abc import Mapping

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from fewshot_pl.all_processes import sum_over_processes

_SECONDS_BETWEEN_LOOKS = 0.5


class StepLog:
    """Logs the figures of those training steps at which they are seen.

    Logging one figure takes Lightning as long as the forward pass of a small network, and of all that is logged between
    two lines of a logger only the last is kept. So figures are logged when a line is written, at the last step of an
    epoch and of the training, twice a second for the display, and at every step if something monitors them.
    Monitored figures are means over all processes, which would otherwise take different decisions. All others are those
    of each process, so no process waits for another.
    """

    def __init__(self) -> None:
        self._next_look = 0.0
        self._newest: dict[str, Tensor] = {}  # not every step computes every figure

    def is_due(self, trainer: Trainer, step: int) -> bool:
        """Whether to log the figures of a step, counted from 1."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_line = every > 0 and step % every == 0
        is_last = trainer.is_last_batch or trainer.should_stop or step == trainer.max_steps
        now = time.monotonic()
        if not (is_line or is_last or now >= self._next_look or _monitored(trainer)):
            return False
        self._next_look = now + _SECONDS_BETWEEN_LOOKS
        return True

    def log(self, module: LightningModule, losses: Mapping[str, Tensor], num_tasks: int) -> None:
        """Log the losses of a training step on ``num_tasks`` tasks, if it is due; to be called within the step."""
        found = {f"train/{name}": value.detach() for name, value in losses.items()}
        if module._trainer is not None and module.trainer.world_size > 1:
            found |= _means_over_processes(found, _monitored(module.trainer), module)
        self._newest |= found
        if module._trainer is None or self.is_due(module.trainer, module.trainer.global_step + 1):
            self._log(module, num_tasks)

    def log_last(self, module: LightningModule, num_tasks: int) -> None:
        """Log the newest figures after the step at which training stops: Lightning writes a line then."""
        if module.trainer.should_stop:
            self._log(module, num_tasks)

    def _log(self, module: LightningModule, num_tasks: int) -> None:
        for name, value in self._newest.items():
            module.log(name, value, batch_size=num_tasks)


def _monitored(trainer: Trainer) -> list[str]:
    """The training figures that a callback, such as early stopping, or a learning-rate schedule monitors."""
    watching = (*trainer.callbacks, *trainer.lr_scheduler_configs)  # type: ignore[attr-defined]
    names = {str(getattr(part, "monitor", None)) for part in watching}
    return sorted(name for name in names if name.startswith("train/"))


def _means_over_processes(found: Mapping[str, Tensor], names: list[str], module: LightningModule) -> dict[str, Tensor]:
    """The means of figures over the processes whose step computed them; all must call it, with the same names."""
    if not names:
        return {}
    mine = torch.zeros(len(names), 2, dtype=torch.float64, device=module.device)  # value and count
    for row, name in zip(mine, names, strict=True):
        if name in found:
            row[0], row[1] = found[name], 1
    sums = sum_over_processes(mine, module.trainer)
    return {name: total / count for name, (total, count) in zip(names, sums, strict=True) if count}
