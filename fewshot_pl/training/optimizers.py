"""What --optimizer replaces: an algorithm's own optimizer, and the arguments that only this one reads."""

from collections.abc import Sequence
from typing import Any

from fewshot_pl.errors import InputError
from fewshot_pl.flags import given_flags

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
    if (name := config.optimizer.class_path.split(".")[-1]) in _UNFIT:
        raise InputError(f"--optimizer {name} {_UNFIT[name]}, which training here does not give: pass Adam or another")
    given = given_flags(words)
    for name in _OWN:
        if f"--model.{name}" in given:
            raise InputError(
                f"--model.{name} would do nothing, as --optimizer replaces the optimizer that it is for: leave it out, "
                "and pass --optimizer.lr, and --lr_scheduler for a falling learning rate"
            )


def replacement_sentence(config: Any) -> str:
    """The sentence that says which of the algorithm's settings --optimizer leaves without effect."""
    algorithm, optimizer = (config[key].class_path.split(".")[-1] for key in ("model", "optimizer"))
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
