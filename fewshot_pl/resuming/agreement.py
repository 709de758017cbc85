"""Agreement: all processes learn at the same step what one of them knows."""

import time

import torch
from pytorch_lightning import Trainer

_SECONDS = 1.0  # from one question to the next
_MOST_STEPS = 1000


class Agreement:
    """Asks all processes together, about every second, whether any of them says yes.

    Asking waits for the device and the slowest process, so it is not done at every step. The processes agree on the
    number of steps until the next question: as many as take about a second.
    """

    def __init__(self) -> None:
        self._num_steps = self._left = 1
        self._asked_at = time.monotonic()

    def any_says(self, said: bool, trainer: Trainer, now: bool = False) -> bool:
        """Whether any process says yes; False between two questions.

        Has to be called by all processes after the same steps.

        Args:
            said: whether this process says yes.
            trainer: the Trainer, which knows the other processes.
            now: whether to ask at once.
        """
        if trainer.world_size == 1:
            return said
        self._left -= 1
        if self._left > 0 and not now:
            return False
        seconds = time.monotonic() - self._asked_at
        steps = min(max(int(_SECONDS * self._num_steps / max(seconds, 1e-6)), 1), _MOST_STEPS)
        mine = torch.tensor([int(said), -steps], device=trainer.strategy.root_device)
        anyone, fewest = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self._num_steps = self._left = -fewest
        self._asked_at = time.monotonic()
        return bool(anyone)
