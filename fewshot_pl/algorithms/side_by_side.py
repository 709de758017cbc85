"""Tasks whose inner steps are taken side by side.

On a CPU the operations on a small support take longer to call than to compute. The networks of several tasks are
therefore joined into one with as many groups of channels (see ``Learner``), which is called once for all of them. If
there are many queries, they pass task by task, so that the caches keep their maps.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import starmap
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_pl.algorithms.task_threads import one_by_one
from fewshot_pl.backbones.learner import side_by_side
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.known_gradient import TaskGradients, mean_with_known_gradient
from fewshot_pl.functional.precision import without_autocast

Network = TypeVar("Network", bound=nn.Module)
TaskLoss = Callable[[Tensor, Tensor], Tensor]  # outputs [n, N] and targets [n] of a task to a scalar
# From adapted parameters, support_x, query_x and query_y of G tasks to their mean loss [] and outputs [G, N*Q, N].
QueryLoss = Callable[[Parameters, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Grouping(NamedTuple):
    """How tasks are taken side by side.

    Attributes:
        num_together: the number of tasks G in a group; the last may have fewer.
        num_queried_together: the number of tasks in a group whose queries pass at once.
        num_threads: the number of groups at a time, each on its own thread with its share of the cores.
    """

    num_together: int
    num_queried_together: int
    num_threads: int


def images_side_by_side(images: Tensor) -> Tensor:
    """The images of G tasks [G, n, C, H, W] as channels of n images [n, G*C, H, W], innermost in memory on a CPU."""
    if not images.is_cpu:
        return images.movedim(1, 0).flatten(1, 2)
    # Images of one channel are not so by themselves, and neither would be the outputs of convolutions on them.
    return images.permute(1, 3, 4, 0, 2).flatten(3).contiguous().permute(0, 3, 1, 2)


def outputs_of_each(outputs: Tensor, num_tasks: int) -> Tensor:
    """The outputs [G, n, N] of ``num_tasks`` tasks, from outputs side by side [n, G*N]."""
    return outputs.reshape(len(outputs), num_tasks, -1).movedim(1, 0)


def pass_side_by_side(learner: nn.Module, parameters: Parameters, images: tuple[Tensor]) -> Tensor:
    """As ``functional_call`` for each of G tasks: the outputs [G, n, N] of images [G, n, C, H, W].

    Args:
        learner: one that ``passes_side_by_side``.
        parameters: those of all tasks, side by side.
        images: a tuple of the images alone.
    """
    outputs = functional_call(learner, parameters, (images_side_by_side(images[0]),))
    return outputs_of_each(outputs, len(images[0]))


def repeated(parameters: Parameters, num_tasks: int) -> Parameters:
    """The same parameters for ``num_tasks`` tasks side by side."""
    # Expanded rather than concatenated, so that the gradient is one sum.
    return {name: side_by_side(value.expand(num_tasks, *value.shape)) for name, value in parameters.items()}


def parted(parameters: Parameters, num_tasks: int, num_together: int) -> list[Parameters]:
    """The parameters of ``num_tasks`` tasks side by side, split into those of ``num_together`` tasks each."""
    parts = (torch.split(value, len(value) // num_tasks * num_together) for value in parameters.values())
    return [dict(zip(parameters, values, strict=True)) for values in zip(*parts, strict=True)]


def summed(loss: TaskLoss) -> TaskLoss:
    """The sum of G tasks' losses, as a function of outputs [n, G*N] and targets [G, n], in regression [G, n, N].

    Args:
        loss: a mean over images.
    """

    def sum_of_losses(outputs: Tensor, targets: Tensor) -> Tensor:
        num_tasks = len(targets)
        return num_tasks * loss(outputs_of_each(outputs, num_tasks).flatten(0, 1), targets.flatten(0, 1))

    return sum_of_losses


def losses_in_groups(
    network: Network,
    learned: Sequence[Tensor],
    adapted: Callable[[Network, Tensor, Tensor], Parameters],
    query_loss: Callable[[Network, Parameters, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    tasks: Sequence[Tensor],
    grouping: Grouping,
) -> tuple[Tensor, Tensor]:
    """The mean loss [] of T tasks, as a function of ``learned``, and their outputs [T, N*Q, N].

    The gradient of a group is taken before the next group adapts, so that memory holds the graph of one per thread.

    Args:
        network: the network that adapts.
        learned: its learned parameters.
        adapted: from the network, or a copy of its structure, and the support of a group, [G, N*K, C, H, W] and
            [G, N*K], to the group's parameters side by side.
        query_loss: from the network likewise to the QueryLoss of some tasks of a group.
        tasks: support_x, support_y, query_x and query_y of an Episode.
        grouping: how to take them.
    """

    def of_group(
        network: Network, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> TaskGradients:
        parameters = adapted(network, support_x, support_y)
        num_queried = grouping.num_queried_together
        own = parted({name: value.detach() for name, value in parameters.items()}, len(support_x), num_queried)
        images = (torch.split(values, num_queried) for values in (support_x, query_x, query_y))
        queried = [_query_gradients(partial(query_loss, network), *some) for some in zip(own, *images, strict=True)]
        of_parts = [gradients for _, gradients in queried]
        of_adapted = of_parts[0] if len(of_parts) == 1 else [torch.cat(parts) for parts in zip(*of_parts, strict=True)]
        # Without inner steps, frozen parameters are returned as they are, without a path back to the learned ones.
        pairs = [pair for pair in zip(parameters.values(), of_adapted, strict=True) if pair[0].requires_grad]
        with without_autocast(support_x):
            values, of_values = zip(*pairs, strict=True)
            gradients = torch.autograd.grad(values, learned, of_values, materialize_grads=True)
        return [task for found, _ in queried for task in found], gradients

    groups = list(_groups(tasks, grouping.num_together))
    loss, outputs = mean_with_known_gradient(learned, one_by_one(network, of_group, groups, grouping.num_threads))
    return loss, outputs


def full_groups(tasks: Sequence[Tensor], num_together: int) -> list[Tensor]:
    """Tensors [T, ...] of tasks as [T / G, G, ...], the last group filled up with the last task."""
    num_tasks = len(tasks[0])
    num_groups = -(-num_tasks // num_together)
    filled = torch.arange(num_groups * num_together, device=tasks[0].device).clamp(max=num_tasks - 1)
    return [values[filled].view(num_groups, num_together, *values.shape[1:]) for values in tasks]


def in_groups(
    function: Callable[..., tuple[Tensor, ...]], tasks: Sequence[Tensor], num_together: int
) -> tuple[Tensor, ...]:
    """The outputs [T, ...] for T tasks of a function from the inputs [G, ...] of a group to its outputs [G, ...]."""
    found = starmap(function, _groups(tasks, num_together))
    return tuple(torch.cat(outputs) for outputs in zip(*found, strict=True))


def _groups(tasks: Sequence[Tensor], num_together: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(values, num_together) for values in tasks), strict=True)


def _query_gradients(
    query_loss: QueryLoss, parameters: Parameters, *images: Tensor
) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """The mean loss and outputs of some tasks, and the gradients of their losses by their adapted parameters."""
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    loss, outputs = query_loss(leaves, *images)
    with without_autocast(loss):
        gradients = torch.autograd.grad(len(outputs) * loss, list(leaves.values()), materialize_grads=True)
    return [(loss.detach(), of_task) for of_task in outputs.detach()], gradients
