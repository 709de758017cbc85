"""One-task functions applied to many tasks, by a loop or by vmap."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.normalization import episodic_norms, vectorised_pass

OneTask = Callable[..., Tensor | tuple[Tensor, ...]]


def mapped(
    network: nn.Module,
    function: OneTask,
    inputs: tuple[Tensor, ...],
    *,
    vmap: bool,
    chunk: int | None,
    compiled: bool = False,
) -> tuple[Tensor, ...]:
    """The outputs of a one-task function for each of T tasks, stacked to [T, ...].

    Running statistics that the tasks observed in training are averaged and folded in once.

    Args:
        network: whose passes the function makes.
        function: of the inputs of one task.
        inputs: [T, ...] each.
        vmap: all tasks at once, or else one after another.
        chunk: how many tasks vmap takes at once; None for all.
        compiled: by torch.compile, for the shapes at hand.
    """
    norms = [layer for layer in episodic_norms(network) if layer.mode == "running" and network.training]

    def with_statistics(*task: Tensor) -> tuple[Tensor, ...]:
        outputs = function(*task)
        statistics = [values for layer in norms for values in layer.take_observed()]
        return (outputs, *statistics) if isinstance(outputs, Tensor) else (*outputs, *statistics)

    run: Callable[..., tuple[Tensor, ...]] = with_statistics
    if vmap:
        run = torch.func.vmap(with_statistics, randomness="different", chunk_size=chunk)
    if compiled:
        run = torch.compile(run, dynamic=False)
    if vmap:
        with vectorised_pass(network):
            stacked = tuple(run(*inputs))
    else:
        stacked = _looped(run, inputs)
    num_outputs = len(stacked) - 2 * len(norms)
    for index, layer in enumerate(norms):
        mean, variance = stacked[num_outputs + 2 * index : num_outputs + 2 * index + 2]
        layer.update_running(mean.mean(0), variance.mean(0))
    return stacked[:num_outputs]


def _looped(function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    outputs = [function(*task) for task in zip(*inputs, strict=True)]
    return tuple(torch.stack(values) for values in zip(*outputs, strict=True))
