"""One-task functions applied to many tasks, by a loop, on threads or by vmap."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import starmap

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fewshot_pl.algorithms.task_threads import one_by_one
from fewshot_pl.backbones.normalization import episodic_norms
from fewshot_pl.backbones.passes import vectorised_pass
from fewshot_pl.backbones.running_norms import taken_statistics, update_by_tasks
from fewshot_pl.functional import inner_loop
from fewshot_pl.functional.known_gradient import TaskGradients, mean_with_known_gradient
from fewshot_pl.functional.precision import without_autocast

OneTask = Callable[..., Tensor | tuple[Tensor, ...]]


def mapped(
    network: nn.Module,
    function: OneTask,
    inputs: tuple[Tensor, ...],
    *,
    vmap: bool,
    at_once: int | None,
    compiled: bool = False,
    loss_first: bool = False,
) -> tuple[Tensor, ...]:
    """The outputs of a one-task function for each of T tasks, stacked to [T, ...].

    Running statistics that the tasks observed in training are averaged and folded in once; those that a layer observed
    before are dropped.

    Args:
        network: the network that the function calls.
        function: a function of the network, or a copy of its structure, and the inputs of one task.
        inputs: [T, ...] each.
        vmap: map the tasks by vmap, not by a loop.
        at_once: how many tasks vmap takes together, None for all; or on how many threads the loop runs.
        compiled: compile by torch.compile, for the given shapes; a loop then has one thread.
        loss_first: the first output is a loss, and nothing else is differentiated. Its gradient is then taken at once
            for the tasks that vmap takes together, or for each task of a loop, so that memory holds only their
            intermediate results; the mean loss [] takes the place of the losses.
    """

    norms = episodic_norms(network, "running") if network.training else []
    counts = len(norms) > 0
    for layer in norms:
        layer.observed = None

    def with_statistics(network: nn.Module, *task: Tensor) -> tuple[Tensor, ...]:
        outputs = function(network, *task)
        statistics = taken_statistics(network) if counts else ()
        return (outputs, *statistics) if isinstance(outputs, Tensor) else (*outputs, *statistics)

    run: Callable[..., tuple[Tensor, ...]] = with_statistics
    if vmap:
        in_dims = None, *(0 for _ in inputs)
        run = torch.func.vmap(with_statistics, in_dims, randomness="different", chunk_size=at_once)
    if compiled:
        run = torch.compile(run, dynamic=False)
    stays = vmap and inner_loop.GRADS_IN_INFERENCE_MODE and torch.is_inference_mode_enabled()
    differentiated = torch.is_grad_enabled()
    # Fused attention keeps what its gradient needs only if it sees that there will be one, which vmap hides from it.
    attention = sdpa_kernel(SDPBackend.MATH) if vmap and differentiated else nullcontext()
    # The first enables gradients, so the second comes after it.
    with torch.inference_mode(stays), torch.set_grad_enabled(differentiated), attention:
        if not stays:  # autograd may keep any of them, and refuses tensors of inference mode
            inputs = tuple(values.clone() if values.is_inference() else values for values in inputs)
        if vmap:
            with vectorised_pass(network):
                stacked = _chunked_losses(network, run, inputs, at_once) if loss_first else tuple(run(network, *inputs))
        else:
            loop = _looped_losses if loss_first else _looped
            stacked = loop(network, run, list(zip(*inputs, strict=True)), 1 if compiled else at_once or 1)
    if not counts:
        return stacked
    num_outputs = len(stacked) - 2 * len(norms) - 1
    update_by_tasks(norms, stacked[num_outputs:])
    return stacked[:num_outputs]


def _looped(
    network: nn.Module, function: Callable[..., tuple[Tensor, ...]], tasks: list[tuple[Tensor, ...]], num_threads: int
) -> tuple[Tensor, ...]:
    outputs = one_by_one(network, function, tasks, num_threads)
    return tuple(torch.stack(values) for values in zip(*outputs, strict=True))


def _looped_losses(
    network: nn.Module, function: Callable[..., tuple[Tensor, ...]], tasks: list[tuple[Tensor, ...]], num_threads: int
) -> tuple[Tensor, ...]:
    """The mean of the tasks' losses, and their other outputs, stacked to [T, ...]."""
    parameters = trained_parameters(network)

    def with_gradients(network: nn.Module, *task: Tensor) -> TaskGradients:
        outputs = function(network, *task)
        with without_autocast(outputs[0]):  # as in Lightning's backward pass, after the step
            gradients = torch.autograd.grad(outputs[0], parameters, allow_unused=True)
        return [tuple(values.detach() for values in outputs)], gradients

    found = one_by_one(network, with_gradients, tasks, num_threads)
    return mean_with_known_gradient(parameters, found)


def _chunked_losses(
    network: nn.Module, vmapped: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], at_once: int | None
) -> tuple[Tensor, ...]:
    """The same, by a function that maps the inputs [n, ...] of some tasks to their outputs [n, ...]."""
    parameters = trained_parameters(network)

    def with_gradients(*tasks: Tensor) -> TaskGradients:
        outputs = vmapped(network, *tasks)
        with without_autocast(outputs[0]):
            gradients = torch.autograd.grad(outputs[0].sum(), parameters, allow_unused=True)
        return list(zip(*(values.detach() for values in outputs), strict=True)), gradients

    chunks = zip(*(torch.split(values, at_once or len(values)) for values in inputs), strict=True)
    return mean_with_known_gradient(parameters, starmap(with_gradients, chunks))


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network that are learned, not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
