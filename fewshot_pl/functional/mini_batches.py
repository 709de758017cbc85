"""Descent on mini-batches of a task: which images each contains, and the steps on them."""

from collections.abc import Callable, Iterable
from random import Random
from typing import TypeVar

import torch
from torch import Tensor

State = TypeVar("State")


def mini_batches(num_items: int, batch_size: int, num_batches: int, random: Random) -> Tensor:
    """Item numbers [num_batches, batch_size], drawn without replacement.

    The items are shuffled and cut into batches. Items left at the end start the next batch, which the next shuffle
    fills up, so the numbers of times that any two items were drawn never differ by more than one.

    Args:
        random: Python's, because torch's would give each task other numbers under vmap.
    """
    num_shuffles = -(-num_batches * batch_size // num_items)
    order = [item for _ in range(num_shuffles) for item in random.sample(range(num_items), num_items)]
    return torch.tensor(order[: num_batches * batch_size], dtype=torch.long).reshape(num_batches, batch_size)


def items_at(items: Tensor, batch: Tensor) -> Tensor:
    """The items [B, ...] of [n, ...] in a mini-batch [B]; for G tasks, [G, B, ...] of [G, n, ...] in [G, B]."""
    return items[batch] if batch.ndim == 1 else items[torch.arange(len(batch), device=batch.device)[:, None], batch]


def descended(
    gradient_at: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    point: Tensor,
    batches: Iterable[Tensor],
    step: Callable[[Tensor, Tensor, State], tuple[Tensor, State]],
    state: State,
) -> tuple[Tensor, State, list[Tensor]]:
    """The point [P] after optimiser steps from a starting point, one on each batch in turn.

    Args:
        gradient_at: (point, batch) -> the gradient [P] of the loss, and figures [F] to report.
        point: the start.
        batches: what ``gradient_at`` takes, one for each step.
        step: (point, gradient, state) -> the next point and state.
        state: the optimiser's state at the start.

    Returns:
        The last point [P], the last state, and the figures [F] of each batch before the step on it.
    """
    figures = []
    for batch in batches:
        gradient, reported = gradient_at(point, batch)
        point, state = step(point, gradient, state)
        figures.append(reported)
    return point, state, figures
