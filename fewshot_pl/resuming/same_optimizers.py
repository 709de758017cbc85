"""Whether the optimizers of a resumed training are those whose state the checkpoint holds."""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch.optim import Optimizer

from fewshot_pl.errors import InputError


def check_same_optimizers(trainer: Trainer) -> None:
    """Compare the optimizers, whose state Lightning has just restored, with what they were made with.

    Settings that differ are named, as those in the checkpoint replace them.

    Raises:
        InputError: the state is that of another class, which would fail at the first step.
    """
    for optimizer in trainer.optimizers if trainer.ckpt_path else ():
        restored = optimizer.param_groups[0]
        name = type(optimizer).__name__
        if optimizer.defaults.keys() - restored.keys():
            raise InputError(
                f"{trainer.ckpt_path} holds the state of another optimizer than {name}: pass --optimizer as in its "
                "training, or leave it out if there was none"
            )
        if replaced := _replaced(optimizer, restored):
            rank_zero_info(f"{name} goes on with {replaced} from {trainer.ckpt_path}")


def _replaced(optimizer: Optimizer, restored: dict[str, Any]) -> str:
    """The settings that differ, as ``lr 0.1 instead of 0.001, momentum 0 instead of 0.9``."""
    begun_with = {**restored, "lr": restored.get("initial_lr", restored["lr"])}  # before a schedule changed it
    return ", ".join(
        f"{name} {begun_with[name]} instead of {given}"
        for name, given in optimizer.defaults.items()
        if begun_with[name] != given
    )
