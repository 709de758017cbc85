"""What the arguments of every algorithm must be."""

import math
from collections.abc import Mapping
from typing import Any

from fewshot_pl.errors import InputError


def check_precision(algorithm: str, precision: str) -> None:
    """Raise InputError if an algorithm that adapts by gradients would keep its weights in half precision."""
    if precision in ("16-true", "bf16-true"):
        raise InputError(
            f"{algorithm} adapts by gradients, which half precision is too coarse for: pass --trainer.precision "
            "bf16-mixed, or 16-mixed"
        )


def check_arguments(algorithm: str, given: Mapping[str, Any], carries_statistics: bool) -> None:
    """Raise InputError if an argument of an algorithm is out of its range.

    Args:
        algorithm: its name.
        given: the arguments by name.
        carries_statistics: whether norm ``episode`` is possible.
    """
    if given.get("norm") == "episode" and not carries_statistics:
        raise InputError("norm 'episode' is of LSTMMetaLearner alone: pass --model.norm support, or another")
    if given["task_parallel"] == "side_by_side" and algorithm not in ("MAML", "Reptile"):
        raise InputError(f"{algorithm} takes no tasks side by side: leave out --model.task_parallel side_by_side")
    if not 0 <= given["learning_rate"] < math.inf:
        raise InputError(f"--model.learning_rate must be a number from 0, not {given['learning_rate']}")
    if (eps := given.get("norm_eps")) is not None and not 0 < eps < math.inf:
        raise InputError(f"--model.norm_eps must be a number above 0, or null, not {eps}")
    for name in ("num_inner_steps", "num_inner_steps_test", "lr_halve_every"):
        if (steps := given.get(name) or 0) < 0:
            raise InputError(f"--model.{name} must be at least 0, not {steps}")
    if (tasks := given["task_chunk"]) is not None and tasks < 1:
        raise InputError(f"--model.task_chunk must be at least 1, or null for all tasks, not {tasks}")
