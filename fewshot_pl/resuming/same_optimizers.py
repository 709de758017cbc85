"""Whether the optimizers of a resumed training are those whose state the checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch.optim import Optimizer

from fewshot_pl.errors import InputError


def check_same_optimizers(trainer: Trainer, before: Mapping[str, Any]) -> None:
    """Compare the optimizers, whose state Lightning has just restored, with what they were made with.

    Settings that differ are named, as those in the checkpoint replace them, unless ``check_same_training`` names them.

    Args:
        trainer: the Trainer.
        before: the arguments of the algorithm according to the checkpoint.

    Raises:
        InputError: the state is that of another class, which would fail at the first step.
    """
    told = _told_settings(trainer.lightning_module.hparams, before)
    for optimizer in trainer.optimizers if trainer.ckpt_path else ():
        restored = optimizer.param_groups[0]
        name = type(optimizer).__name__
        if optimizer.defaults.keys() - restored.keys():
            raise InputError(
                f"{trainer.ckpt_path} holds the state of another optimizer than {name}: pass --optimizer as in its "
                "training, or leave it out if there was none"
            )
        if replaced := _replaced(optimizer, restored, told):
            rank_zero_info(f"{name} goes on with {replaced} from {trainer.ckpt_path}")


def _told_settings(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The settings of optimizers that are changed arguments of the algorithm, which ``check_same_training`` names."""
    changed = {name: value for name, value in now.items() if name in before and before[name] != value}
    rates = [("lr", changed[name]) for name in ("learning_rate", "generator_learning_rate") if name in changed]
    betas = (now["beta1"], now["beta2"]) if changed.keys() & {"beta1", "beta2"} else None
    return [*rates, ("betas", betas)]


def _replaced(optimizer: Optimizer, restored: dict[str, Any], told: list[tuple[str, Any]]) -> str:
    """The settings that differ and are not told yet, as ``lr 0.1 instead of 0.001, momentum 0 instead of 0.9``."""
    begun_with = {**restored, "lr": restored.get("initial_lr", restored["lr"])}  # before a schedule changed it
    return ", ".join(
        f"{name} {begun_with[name]} instead of {given}"
        for name, given in optimizer.defaults.items()
        if begun_with[name] != given and (name, given) not in told
    )
