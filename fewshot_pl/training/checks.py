"""Flags that are refused before a training starts, as they could not do what they seem to say."""

from collections.abc import Sequence
from typing import Any

from fewshot_pl.data.datamodule import check_overfits_nothing
from fewshot_pl.errors import InputError
from fewshot_pl.training.optimizers import check_optimizer


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
    check_overfits_nothing(config.trainer.overfit_batches)
    for flag in ("max_epochs", "max_steps", "limit_train_batches"):
        if config.trainer[flag] == 0 and not (config.trainer.fast_dev_run or config.ckpt_path):
            raise InputError(
                f"--trainer.{flag} 0 leaves no step of training: leave it out, or give evaluate.py a checkpoint, which "
                "only tests it"
            )
    if "StochasticWeightAveraging" in named_callbacks(config.trainer):
        raise InputError(
            "StochasticWeightAveraging keeps its average out of the checkpoints, and train.py tests the best of these: "
            "pass --trainer.callbacks EMAWeightAveraging or WeightAveraging, whose averages are validated and kept"
        )


def named_callbacks(trainer: Any) -> list[str]:
    """The class names of the callbacks in parsed Trainer flags."""
    return [one.class_path.split(".")[-1] for one in as_list(trainer.callbacks)]


def as_list(given: Any) -> list[Any]:
    """The values of a flag that takes none, one or several, as a list."""
    return given if isinstance(given, list) else [] if given is None else [given]
