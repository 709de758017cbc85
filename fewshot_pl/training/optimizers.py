"""What --optimizer replaces: an algorithm's own optimizer, and the arguments that only this one reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fewshot_pl.errors import InputError
from fewshot_pl.flags import class_name, given_flags
from fewshot_pl.guard import raised_in

_OWN = ("learning_rate", "lr_halve_every", "generator_learning_rate", "beta1", "beta2")
_UNFIT = {"LBFGS": "takes the loss of a step several times", "SparseAdam": "takes sparse gradients alone"}


def check_optimizer(config: Any, words: Sequence[str]) -> None:
    """Raise InputError if --optimizer cannot train, or a flag on the command line is for what it replaces.

    A config file may hold such settings, as complete ones do: there they cannot be left out.

    Args:
        config: the parsed flags.
        words: the command line.
    """
    if not config.get("optimizer"):
        return
    if (name := class_name(config.optimizer)) in _UNFIT:
        raise InputError(f"--optimizer {name} {_UNFIT[name]}, which training here does not give: pass Adam or another")
    _check_schedule(config)
    given = given_flags(words)
    for name in _OWN:
        if f"--model.{name}" in given:
            raise InputError(
                f"--model.{name} would do nothing, as --optimizer replaces the optimizer that it is for: leave it out, "
                "and pass --optimizer.lr, and --lr_scheduler for a falling learning rate"
            )


def _check_schedule(config: Any) -> None:
    """Raise InputError if a schedule of a given length would end before the training does, which torch forbids."""
    schedule, trainer = config.get("lr_scheduler"), config.trainer
    if not schedule or schedule.class_path != "torch.optim.lr_scheduler.OneCycleLR":
        return
    if trainer.max_epochs is None or trainer.max_steps != -1 or trainer.max_time is not None:
        return  # when it ends is not known yet
    given = schedule.init_args
    num_steps = given.total_steps or (given.epochs or 0) * (given.steps_per_epoch or 0)
    if 0 < num_steps < trainer.max_epochs:
        raise InputError(
            f"--lr_scheduler OneCycleLR would end after {num_steps} of {trainer.max_epochs} epochs, as it takes one "
            f"step in each: pass --lr_scheduler.total_steps {trainer.max_epochs}"
        )


@contextmanager
def accepted_arguments(config: Any) -> Iterator[None]:
    """A context in which --optimizer and --lr_scheduler are made.

    Raises:
        InputError: torch refuses their arguments.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if not raised_in(error, "torch.optim"):
            raise
        is_schedule = raised_in(error, "torch.optim.lr_scheduler")
        key = "lr_scheduler" if is_schedule else "optimizer"
        refused = f"--{key} {class_name(config[key])} refuses its arguments ({error})"
        raise InputError(f"{refused}: pass others, or another class") from error


def replacement_sentence(config: Any) -> str:
    """The sentence that says which of the algorithm's settings --optimizer leaves without effect."""
    algorithm, optimizer = (class_name(config[key]) for key in ("model", "optimizer"))
    unread = ", ".join(f"--model.{name}" for name in _OWN if name in config.model.init_args)
    return f"--optimizer {optimizer} replaces the optimizer of {algorithm}: {unread} do nothing"


def with_optimizer(result: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A result with the optimizer that --optimizer named, if any, in place of the settings that had no effect.

    Args:
        result: the result, with ``model_parameters``.
        config: the whole configuration, as saved.
    """
    if not config["optimizer"]:
        return result
    read = {name: value for name, value in result["model_parameters"].items() if name not in _OWN}
    return {**result, "model_parameters": read, **{key: config[key] for key in ("optimizer", "lr_scheduler")}}
