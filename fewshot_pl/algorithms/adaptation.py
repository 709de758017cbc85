"""Gradient descent of a learner on a task, by the fastest way there is for the pass at hand."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from fewshot_pl.backbones import Learner
from fewshot_pl.backbones.learner import channels_last
from fewshot_pl.backbones.passes import same_pass, second_order_pass
from fewshot_pl.functional.inner_loop import Parameters, adapted_parameters


def adapted_learner(
    learner: Learner,
    loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    inner_lr: float,
    num_steps: int,
    first_order: bool,
    data: tuple[Tensor, ...] = (),
    recompute: bool = False,
) -> Parameters:
    """What becomes of a learner's parameters in so many steps of descent on ``loss(parameters, *data)``.

    See ``adapted_parameters``. In float32 at least: half precision spoils second derivatives.
    """
    # torch.func works everywhere, autograd itself costs less: a layer of dispatch, and most of batch norm's gradient.
    plain = torch.is_grad_enabled() and not (learner.vectorised or recompute or torch.compiler.is_compiling())
    pass_of_now = partial(second_order_pass, learner) if plain and not first_order else same_pass(learner)

    def loss_in_pass(parameters: Parameters, *data: Tensor) -> Tensor:
        with pass_of_now():
            return loss(parameters, *data)

    if num_steps and not learner.vectorised:
        parameters = channels_last(parameters)
    with torch.autocast(learner.head.weight.device.type, enabled=False):
        return adapted_parameters(
            loss_in_pass, parameters, inner_lr, num_steps, first_order, data=data, recompute=recompute, plain=plain
        )
