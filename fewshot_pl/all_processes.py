"""Figures of all processes that train together, without any process waiting before it takes part.

A strategy's own ``reduce`` makes each process wait for the others, and for its own GPU, first. All processes must make
the same calls in the same order.
"""

import torch
from pytorch_lightning import Trainer
from torch import Tensor


def sum_over_processes(values: Tensor, trainer: Trainer) -> Tensor:
    """The sum of a tensor of any shape over all processes."""
    return _reduced(values, "SUM") if trainer.world_size > 1 else values


def mean_over_processes(values: Tensor, trainer: Trainer) -> Tensor:
    """The mean of a tensor of any shape over all processes."""
    return _reduced(values, "SUM") / trainer.world_size if trainer.world_size > 1 else values


def in_any_process(flag: Tensor, trainer: Trainer) -> Tensor:
    """Whether a flag [] is true in any process."""
    return _reduced(flag.to(torch.uint8), "MAX").bool() if trainer.world_size > 1 else flag


def _reduced(values: Tensor, operation: str) -> Tensor:
    reduced = values.clone()
    torch.distributed.all_reduce(reduced, getattr(torch.distributed.ReduceOp, operation))
    return reduced
