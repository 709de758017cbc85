"""Agreement: what one process knows, all come to know at the same step."""

import time

import torch
from pytorch_lightning import Trainer

_SECONDS = 1.0  # from one question to the next
_MOST_STEPS = 1000


class Agreement:
    """Whether any process says so; all are asked together, about every second.

    To ask waits for the device and for the slowest process, so it is not done at every step. By how many steps make a
    second the processes agree on when to ask again.
    """

    def __init__(self) -> None:
        self._num_steps = self._left = 1
        self._asked_at = time.monotonic()

    def any_says(self, said: bool, trainer: Trainer, now: bool = False) -> bool:
        """Whether any process says so; False between two questions.

        To be called by all processes after the same steps.

        Args:
            said: by this process.
            trainer: that knows the other processes.
            now: ask at once.
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
