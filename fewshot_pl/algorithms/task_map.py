"""One-task functions applied to many tasks, by a loop or by vmap."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.normalization import episodic_norms, vectorised_pass
from fewshot_pl.functional.known_gradient import with_known_gradient

OneTask = Callable[..., Tensor | tuple[Tensor, ...]]


def mapped(
    network: nn.Module,
    function: OneTask,
    inputs: tuple[Tensor, ...],
    *,
    vmap: bool,
    chunk: int | None,
    compiled: bool = False,
    loss_first: bool = False,
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
        loss_first: the first output is a loss, and nothing else is differentiated. A loop then takes the gradient of
            each task at once, so that memory holds the results of one task; the losses' mean [] is in their place.
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
        stacked = _looped_losses(network, run, inputs) if loss_first else _looped(run, inputs)
    num_outputs = len(stacked) - 2 * len(norms)
    for index, layer in enumerate(norms):
        mean, variance = stacked[num_outputs + 2 * index : num_outputs + 2 * index + 2]
        layer.update_running(mean.mean(0), variance.mean(0))
    return stacked[:num_outputs]


def _looped(function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    outputs = [function(*task) for task in zip(*inputs, strict=True)]
    return tuple(torch.stack(values) for values in zip(*outputs, strict=True))


def _looped_losses(
    network: nn.Module, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The mean of the tasks' losses, and their other outputs, stacked to [T, ...]."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    losses, others = [], []
    sums: list[Tensor | None] = [None] * len(parameters)
    for task in zip(*inputs, strict=True):
        loss, *rest = function(*task)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        sums = [_sum(total, gradient) for total, gradient in zip(sums, gradients, strict=True)]
        losses.append(loss.detach())
        others.append([values.detach() for values in rest])
    means = [None if total is None else total / len(losses) for total in sums]
    loss = with_known_gradient(torch.stack(losses).mean(), parameters, means)
    return loss, *(torch.stack(values) for values in zip(*others, strict=True))


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total + more
