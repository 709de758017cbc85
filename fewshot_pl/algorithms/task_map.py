"""One-task functions applied to many tasks, by a loop, on threads or by vmap."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
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
Outputs = Callable[..., tuple[Tensor, ...]]  # of a network and the inputs of one task, or of several under vmap


def looped(
    network: nn.Module,
    function: OneTask,
    inputs: tuple[Tensor, ...],
    *,
    num_threads: int = 1,
    compiled: bool = False,
    loss_first: bool = False,
) -> tuple[Tensor, ...]:
    """The outputs of a one-task function for each of T tasks, taken one by one, stacked to [T, ...].

    Running statistics that the tasks observed in training are averaged and folded in once; those that a layer observed
    before are dropped.

    Args:
        network: the network that the function calls.
        function: a function of the network, or a copy of its structure, and the inputs of one task.
        inputs: [T, ...] each.
        num_threads: how many tasks are computed at a time.
        compiled: compile by torch.compile, for the given shapes; the loop then has one thread.
        loss_first: the first output is a loss, and nothing else is differentiated. Its gradient is then taken at once
            for each task, so that memory holds only its intermediate results; the mean loss [] takes the place of
            the losses.
    """

    num_threads = 1 if compiled else num_threads

    def of_all(run: Outputs) -> tuple[Tensor, ...]:
        run = _compiled(run) if compiled else run
        loop = _looped_losses if loss_first else _looped
        # The switch is of the process: tasks that differentiate twice would each turn it for the other threads too.
        with _gradients_as_before(inference=False, fuses_attention=num_threads == 1):
            tasks = list(zip(*map(_differentiable, inputs), strict=True))
            return loop(network, run, tasks, num_threads)

    return _with_running_statistics(network, function, of_all)


def vmapped(
    network: nn.Module,
    function: OneTask,
    inputs: tuple[Tensor, ...],
    *,
    chunk_size: int | None = None,
    compiled: bool = False,
    loss_first: bool = False,
) -> tuple[Tensor, ...]:
    """As ``looped``, but by vmap, which takes ``chunk_size`` tasks together, or all.

    With ``loss_first``, the gradient is taken at once for the tasks that are taken together.
    """

    def of_all(run: Outputs) -> tuple[Tensor, ...]:
        in_dims = None, *(0 for _ in inputs)
        run = torch.func.vmap(run, in_dims, randomness="different", chunk_size=chunk_size)
        run = _compiled(run) if compiled else run
        stays = inner_loop.GRADS_IN_INFERENCE_MODE and torch.is_inference_mode_enabled()
        # Fused attention keeps what its gradient needs only if it sees that there will be one, which vmap hides.
        with _gradients_as_before(inference=stays, fuses_attention=False), vectorised_pass(network):
            tasks = inputs if stays else tuple(map(_differentiable, inputs))
            return _chunked_losses(network, run, tasks, chunk_size) if loss_first else tuple(run(network, *tasks))

    return _with_running_statistics(network, function, of_all)


def _with_running_statistics(
    network: nn.Module, function: OneTask, of_all: Callable[[Outputs], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What ``of_all`` makes of a one-task function; the running statistics of its tasks are folded in."""
    norms = episodic_norms(network, "running") if network.training else []
    counts = len(norms) > 0
    for layer in norms:
        layer.observed = None

    def with_statistics(network: nn.Module, *task: Tensor) -> tuple[Tensor, ...]:
        outputs = function(network, *task)
        statistics = taken_statistics(network) if counts else ()
        return (outputs, *statistics) if isinstance(outputs, Tensor) else (*outputs, *statistics)

    stacked = of_all(with_statistics)
    if not counts:
        return stacked
    num_outputs = len(stacked) - 2 * len(norms) - 1
    update_by_tasks(norms, stacked[num_outputs:])
    return stacked[:num_outputs]


def _compiled(run: Outputs) -> Outputs:
    compiled: Outputs = _with_backward_pass()(torch.compile(run, dynamic=False))
    return compiled


@cache  # torch keeps something of each
def _with_backward_pass() -> Callable[[Outputs], Outputs]:
    """A decorator of compiled functions, whose backward pass is then compiled with them.

    Torch would otherwise compile it where that first runs: in Lightning's backward pass, which could not go on without.
    """
    from torch._functorch import config  # no public name, so if it goes, only compiling fails

    decorator: Callable[[Outputs], Outputs] = config.patch(force_non_lazy_backward_lowering=True)
    return decorator


@contextmanager
def _gradients_as_before(*, inference: bool, fuses_attention: bool) -> Iterator[None]:
    """A context with inference mode as said and gradients as they are; with them, attention may not be fused."""
    differentiated = torch.is_grad_enabled()
    attention = sdpa_kernel(SDPBackend.MATH) if differentiated and not fuses_attention else nullcontext()
    # The first enables gradients, so the second comes after it.
    with torch.inference_mode(inference), torch.set_grad_enabled(differentiated), attention:
        yield


def _differentiable(values: Tensor) -> Tensor:
    """The values, or a copy if they are of inference mode, as autograd may keep any and refuses these."""
    return values.clone() if values.is_inference() else values


def _looped(
    network: nn.Module, function: Outputs, tasks: list[tuple[Tensor, ...]], num_threads: int
) -> tuple[Tensor, ...]:
    outputs = one_by_one(network, function, tasks, num_threads)
    return tuple(torch.stack(values) for values in zip(*outputs, strict=True))


def _looped_losses(
    network: nn.Module, function: Outputs, tasks: list[tuple[Tensor, ...]], num_threads: int
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
    network: nn.Module, run: Outputs, inputs: tuple[Tensor, ...], chunk_size: int | None
) -> tuple[Tensor, ...]:
    """The same, by a function that maps the inputs [n, ...] of some tasks to their outputs [n, ...]."""
    parameters = trained_parameters(network)

    def with_gradients(*tasks: Tensor) -> TaskGradients:
        outputs = run(network, *tasks)
        with without_autocast(outputs[0]):
            gradients = torch.autograd.grad(outputs[0].sum(), parameters, allow_unused=True)
        return list(zip(*(values.detach() for values in outputs), strict=True)), gradients

    chunks = zip(*(torch.split(values, chunk_size or len(values)) for values in inputs), strict=True)
    return mean_with_known_gradient(parameters, starmap(with_gradients, chunks))


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network that are learned, not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
