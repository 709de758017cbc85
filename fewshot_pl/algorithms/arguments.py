"""Checks of the arguments of all algorithms."""

import math
from collections.abc import Mapping
from typing import Any

from fewshot_pl.argument_types import check_types
from fewshot_pl.errors import InputError

Ranges = dict[str, tuple[float, float]]  # the least and the most of arguments by name, inclusive


def at_least(least: float, *names: str) -> Ranges:
    """The ranges of arguments without an upper bound."""
    return dict.fromkeys(names, (least, math.inf))


def check_precision(algorithm: str, precision: str) -> None:
    """Raise InputError if an algorithm that adapts by gradients would keep its weights in half precision."""
    if precision in ("16-true", "bf16-true"):
        raise InputError(
            f"{algorithm} adapts by gradients, which half precision is too coarse for: pass --trainer.precision "
            "bf16-mixed, or 16-mixed"
        )


def check_arguments(
    algorithm: type, given: Mapping[str, Any], carries_statistics: bool, takes_side_by_side: bool
) -> None:
    """Raise InputError if an argument of an algorithm has the wrong type or is out of its range.

    Args:
        algorithm: its class.
        given: the arguments by name.
        carries_statistics: whether the algorithm supports norm ``episode``.
        takes_side_by_side: whether it supports ``task_parallel`` ``side_by_side``.
    """
    check_types(algorithm, given, "--model")
    if given.get("norm") == "episode" and not carries_statistics:
        raise InputError("norm 'episode' is of LSTMMetaLearner alone: pass --model.norm support, or another")
    if given["task_parallel"] == "side_by_side" and not takes_side_by_side:
        raise InputError(
            f"{algorithm.__name__} takes no tasks side by side: leave out --model.task_parallel side_by_side"
        )
    if (eps := given.get("norm_eps")) is not None and not 0 < eps < math.inf:
        raise InputError(f"--model.norm_eps must be a number above 0, or null, not {eps}")
    for name, (least, most) in _ranges(algorithm).items():
        value = given.get(name)
        if value is not None and not (least <= value <= most and math.isfinite(value)):
            span = f"at least {least}" if most == math.inf else f"between {least} and {most}"
            raise InputError(f"--model.{name} must be {span}, not {value}")


def _ranges(algorithm: type) -> Ranges:
    """The ranges that an algorithm and its bases state in ``argument_ranges``, each for its own arguments."""
    stated: list[Ranges] = [vars(base).get("argument_ranges", {}) for base in reversed(algorithm.__mro__)]
    return {name: bounds for ranges in stated for name, bounds in ranges.items()}
