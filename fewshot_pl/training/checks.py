"""Flags that are refused or warned of before a training starts, as they could not do what they seem to say."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import BackboneFinetuning, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from fewshot_pl.data.datamodule import EpisodicDataModule, check_overfits_nothing
from fewshot_pl.errors import InputError
from fewshot_pl.flags import as_list, class_name
from fewshot_pl.training.optimizers import check_optimizer

_NO_VALIDATION = "for no validation at all pass --trainer.limit_val_batches 0"


def check_training(config: Any, words: Sequence[str]) -> None:
    """Raise InputError if flags of a training would have no effect or cause an error in Lightning.

    Args:
        config: the parsed flags.
        words: the command line.
    """
    check_optimizer(config, words)
    if config.get("lr_scheduler") and not config.get("optimizer"):
        raise InputError("--lr_scheduler needs --optimizer: pass one, such as --optimizer Adam, or leave it out")
    if config.trainer.barebones or config.trainer.enable_checkpointing is False:
        flag = "barebones" if config.trainer.barebones else "enable_checkpointing"
        raise InputError(
            f"train.py needs checkpoints, to test the best one and to resume from: leave out --trainer.{flag}"
        )
    if config.checkpoint.save_on_exception:
        raise InputError(
            "what an exception interrupts is kept in last.ckpt, and best.ckpt is for weights that were validated: "
            "leave out --checkpoint.save_on_exception"
        )
    check_overfits_nothing(config.trainer.overfit_batches)
    if not (config.trainer.fast_dev_run or config.ckpt_path):  # a training that is resumed may have ended
        _check_steps(config.trainer)
    _check_intervals(config.trainer)
    if "StochasticWeightAveraging" in named_callbacks(config.trainer):
        raise InputError(
            "StochasticWeightAveraging keeps its average out of the checkpoints, and train.py tests the best of these: "
            "pass --trainer.callbacks EMAWeightAveraging or WeightAveraging, whose averages are validated and kept"
        )


def check_finetuning(callbacks: Sequence[Any], model: LightningModule) -> None:
    """Raise InputError if a callback is to freeze the backbone of an algorithm that has none of its own."""
    finetunes = any(isinstance(callback, BackboneFinetuning) for callback in callbacks)
    if finetunes and not isinstance(getattr(model, "backbone", None), nn.Module):
        raise InputError(
            f"--trainer.callbacks BackboneFinetuning needs an algorithm with a backbone apart from its head, which "
            f"{type(model).__name__} does not have: leave it out"
        )


def check_states(callbacks: Sequence[Callback], best: ModelCheckpoint) -> None:
    """Raise InputError if a checkpoint could not tell the states of two callbacks apart.

    Args:
        callbacks: the callbacks that the flags name.
        best: what train.py itself keeps the best checkpoint with.
    """
    seen = {best.state_key}
    for callback in callbacks:
        if type(callback).state_dict is Callback.state_dict:  # has none
            continue
        name = type(callback).__name__
        if callback.state_key == best.state_key:
            raise InputError(
                f"train.py already keeps the best checkpoint by {best.monitor}: leave out --trainer.callbacks {name} "
                "and pass --checkpoint.save_top_k for more than one, or let it watch another figure"
            )
        if callback.state_key in seen:
            raise InputError(f"--trainer.callbacks has two of {name} that watch the same: leave one out")
        seen.add(callback.state_key)


def warn_of_smaller_steps(trainer: Trainer, data: EpisodicDataModule) -> None:
    """Warn if the batches of an epoch are no multiple of those of a step, as Lightning then makes a smaller last step.

    Args:
        trainer: the Trainer.
        data: the benchmark to train on.
    """
    limit, in_step = trainer.limit_train_batches, trainer.accumulate_grad_batches
    wanted = limit if isinstance(limit, int) else int(data.batches_per_epoch * limit)
    num_batches = min(data.batches_per_epoch, wanted)
    if left := num_batches % in_step:
        is_limited = num_batches < data.batches_per_epoch
        flag = "--trainer.limit_train_batches" if is_limited else "--data.batches_per_epoch"
        cure = f"pass {flag} {num_batches - left + in_step} for steps of one size"
        rank_zero_warn(
            f"The {num_batches} batches of an epoch are no multiple of --trainer.accumulate_grad_batches {in_step}, so "
            f"the last step of each epoch takes {left}: {cure}"
        )


def _check_steps(trainer: Any) -> None:
    for flag in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[flag] == 0:
            raise InputError(
                f"--trainer.{flag} 0 leaves no step of training: leave it out, or give evaluate.py a checkpoint, which "
                "only tests it"
            )


def _check_intervals(trainer: Any) -> None:
    if trainer.accumulate_grad_batches < 1:
        raise InputError(f"--trainer.accumulate_grad_batches must be at least 1, not {trainer.accumulate_grad_batches}")
    every = trainer.check_val_every_n_epoch
    if every is not None and every < 1:
        raise InputError(f"--trainer.check_val_every_n_epoch must be at least 1, not {every}: {_NO_VALIDATION}")
    if trainer.val_check_interval == 0:
        raise InputError(f"--trainer.val_check_interval must be above 0: {_NO_VALIDATION}")


def named_callbacks(trainer: Any) -> list[str]:
    """The class names of the callbacks in parsed Trainer flags."""
    return [class_name(one) for one in as_list(trainer.callbacks)]
