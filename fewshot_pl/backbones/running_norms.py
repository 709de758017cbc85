"""How batch norms of mode ``running`` fold what they observed in training passes into their running statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.normalization import EpisodicBatchNorm2d, episodic_norms


def taken_statistics(module: nn.Module) -> tuple[Tensor, ...]:
    """Mean and variance, [C] each, that each of L running norms inside ``module`` observed in a task's last pass.

    They are then cleared. Layers may have observed nothing, as they are in evaluation mode or were left out of the
    pass: the last tensor [L] says which have, and the others' values mean nothing.
    """
    norms = episodic_norms(module, "running")
    found = [layer.take_observed() for layer in norms]
    pairs = [pair or (layer.running_mean, layer.running_var) for layer, pair in zip(norms, found, strict=True)]
    return *(values for pair in pairs for values in pair), torch.tensor(
        [pair is not None for pair in found], device="cpu"
    )


def update_by_tasks(norms: Sequence[EpisodicBatchNorm2d], taken: Sequence[Tensor]) -> None:
    """Fold in once, for each running norm, the mean of what it observed in those of T tasks that passed it.

    Args:
        norms: the running norms of a network.
        taken: their ``taken_statistics`` in each task, stacked to [T, ...].
    """
    *statistics, have = taken
    for layer, mean, variance, passed in zip(norms, statistics[::2], statistics[1::2], have.unbind(1), strict=True):
        if not passed.all():
            mean, variance = mean[passed], variance[passed]
        if len(mean):
            layer.update_running(mean.mean(0), variance.mean(0))


def update_by_pass(module: nn.Module) -> None:
    """Fold in what the running norms inside ``module`` observed in the last pass; without gradients, drop it."""
    for layer in episodic_norms(module, "running"):
        if (observed := layer.take_observed()) is not None and torch.is_grad_enabled():
            layer.update_running(*observed)
