"""Training tasks whose inner steps are taken side by side.

On a CPU the operations on a small support take longer to call than to compute. A network with the parameters of
several tasks is one with as many groups of channels (see ``Learner``), and is called once for all of them. Queries are
many, and pass task by task, so that the caches keep their maps.
"""

from collections.abc import Callable, Sequence
from itertools import starmap

import torch
from torch import Tensor

from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.known_gradient import TaskGradients, mean_with_known_gradient

TaskLoss = Callable[[Tensor, Tensor], Tensor]  # outputs [n, N] and targets [n] of a task to a scalar
# The parameters that a task adapted, its support_x, query_x and query_y to its loss [] and outputs [N*Q, N].
QueryLoss = Callable[[Parameters, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def images_side_by_side(images: Tensor) -> Tensor:
    """The images of G tasks [G, n, C, H, W] as channels of n images [n, G*C, H, W], in memory innermost."""
    return images.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)


def repeated(parameters: Parameters, num_tasks: int) -> Parameters:
    """The parameters of so many tasks side by side, all the same."""
    return {name: torch.cat([value] * num_tasks) for name, value in parameters.items()}


def parted(parameters: Parameters, num_tasks: int) -> list[Parameters]:
    """Each task's parameters, of tasks side by side."""
    of_names = zip(*(value.chunk(num_tasks) for value in parameters.values()), strict=True)
    return [dict(zip(parameters, values, strict=True)) for values in of_names]


def summed(loss: TaskLoss) -> TaskLoss:
    """The sum of the losses of G tasks, of outputs [n, G*N] and targets [G, n]: no task's depends on another's."""

    def sum_of_losses(outputs: Tensor, targets: Tensor) -> Tensor:
        of_each = outputs.chunk(len(targets), 1)
        return torch.stack([loss(*task) for task in zip(of_each, targets, strict=True)]).sum()

    return sum_of_losses


def losses_in_groups(
    learned: Sequence[Tensor],
    adapted: Callable[[Tensor, Tensor], Parameters],
    query_loss: QueryLoss,
    tasks: Sequence[Tensor],
    num_together: int,
) -> tuple[Tensor, Tensor]:
    """The mean loss [] of T tasks, as a function of what is learned, and their outputs [T, N*Q, N].

    The gradient of a group is taken before the next adapts, so that memory holds the graph of one.

    Args:
        learned: parameters.
        adapted: from the support of a group, [G, N*K, C, H, W] and [G, N*K], to its parameters side by side.
        query_loss: of a task.
        tasks: support_x, support_y, query_x and query_y of an Episode.
        num_together: the number of tasks G of a group, but of the last.
    """

    def of_group(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> TaskGradients:
        parameters = adapted(support_x, support_y)
        own = parted({name: value.detach() for name, value in parameters.items()}, len(support_x))
        queries = [_known(query_loss, *task) for task in zip(own, support_x, query_x, query_y, strict=True)]
        of_adapted = [torch.cat(of_tasks) for of_tasks in zip(*(gradients for *_, gradients in queries), strict=True)]
        gradients = torch.autograd.grad(list(parameters.values()), learned, of_adapted, materialize_grads=True)
        return [(loss, outputs) for loss, outputs, _ in queries], gradients

    groups = zip(*(torch.split(values, num_together) for values in tasks), strict=True)
    loss, outputs = mean_with_known_gradient(learned, starmap(of_group, groups))
    return loss, outputs


def _known(query_loss: QueryLoss, parameters: Parameters, *task: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """A task's loss and outputs, and the loss's gradients by the parameters that the task adapted."""
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    loss, outputs = query_loss(leaves, *task)
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return loss.detach(), outputs.detach(), gradients
