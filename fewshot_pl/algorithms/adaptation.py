"""Gradient descent of a learner on a task, by the fastest way that the pass allows."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from fewshot_pl import backbones
from fewshot_pl.backbones import Learner
from fewshot_pl.backbones.learner import channels_last, draws_random_numbers
from fewshot_pl.backbones.passes import same_images, same_pass, second_order_pass
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_loop import Parameters, Rate, adapted_parameters, inner_gradients
from fewshot_pl.functional.precision import without_autocast
from fewshot_pl.functional.primitive_norms import right_second_derivatives
from fewshot_pl.functional.random_draws import refused_draws


def adapted_learner(
    learner: Learner,
    loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    inner_lr: Rate,
    num_steps: int,
    first_order: bool,
    data: tuple[Tensor, ...] = (),
    recompute: bool = False,
) -> Parameters:
    """A learner's parameters after ``num_steps`` steps of descent on ``loss(parameters, *data)``, in float32 at least.

    See ``adapted_parameters``. Half precision would spoil second derivatives.

    Args:
        data: if given, the learner passes the same images in every step.
    """
    constant = first_order or not torch.is_grad_enabled()
    if recompute := recompute and torch.is_grad_enabled():
        check_recomputable(learner, "the backbone")
    by_autograd = _takes_autograd(learner) and not recompute
    pass_of_now = partial(second_order_pass, learner) if by_autograd and not constant else same_pass(learner)
    # The gradients of a step that is recomputed flow to its inputs alone.
    others = _other_parameters(learner, parameters) if recompute else {}

    draws = partial(_refused_draws, learner) if recompute and not _is_ours(learner.backbone) else nullcontext

    def loss_in_pass(parameters: Parameters, *inputs: Tensor) -> Tensor:
        data = inputs[: len(inputs) - len(others)]
        all_of_them = {**parameters, **dict(zip(others, inputs[len(data) :], strict=True))}
        with draws(), pass_of_now(), _right_second_derivatives(learner, constant):
            return loss(all_of_them, *data)

    if num_steps and not learner.vectorised:
        parameters = channels_last(parameters)
    pass_of_all = same_images(learner) if by_autograd and data and num_steps > 1 else nullcontext()
    with without_autocast(learner.head.weight), pass_of_all:
        return adapted_parameters(
            loss_in_pass,
            parameters,
            inner_lr,
            num_steps,
            first_order,
            data=(*data, *others.values()),
            recompute=recompute,
            by_autograd=by_autograd,
            written_out=False,  # by loss_in_pass, where the learner needs it
        )


def _other_parameters(learner: Learner, parameters: Mapping[str, Tensor]) -> Parameters:
    """The learner's parameters that are not among these, not even by another of their names."""
    named = learner.named_parameters(remove_duplicate=False)
    given = {id(parameter) for name, parameter in named if name in parameters}
    return {name: parameter for name, parameter in learner.named_parameters() if id(parameter) not in given}


def check_recomputable(learner: Learner, backbone: str) -> None:
    """Raise InputError if a learner's pass draws random numbers, as it would draw others in the backward pass.

    ``backbone`` is its name in the message.
    """
    if draws_random_numbers(learner):
        raise _not_recomputable(backbone)


def _not_recomputable(backbone: str) -> InputError:
    return InputError(
        f"{backbone} drops parts of itself at random and cannot be computed again: "
        "leave out --model.recompute_inner_steps"
    )


def _refused_draws(learner: Learner) -> AbstractContextManager[None]:
    return refused_draws(learner.head.weight.device, _not_recomputable("the backbone"))


def learner_gradient(
    learner: Learner, loss: Callable[[Parameters], tuple[Tensor, ...]], point: Tensor, first_order: bool = True
) -> tuple[Tensor, ...]:
    """The gradient [P] of a learner's loss at a point [P], and the other outputs of ``loss`` as constants.

    In float32 at least, as half precision would spoil small gradients.

    Args:
        learner: the network whose parameters make up a point.
        loss: a function from the parameters by name to a scalar and any other tensors.
        point: the parameters at which to take the gradient.
        first_order: return the gradient as a constant.
    """

    def loss_at(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return loss(learner.parameters_at(*values))

    constant = first_order or not torch.is_grad_enabled()
    by_autograd = _takes_autograd(learner)
    pass_of_now = second_order_pass(learner) if by_autograd and not constant else nullcontext()
    with without_autocast(point), pass_of_now, _right_second_derivatives(learner, constant):
        gradients, more = inner_gradients(loss_at, [point], constant=constant, by_autograd=by_autograd)
    return *gradients, *more


def _right_second_derivatives(learner: Learner, constant: bool) -> AbstractContextManager[None]:
    """``right_second_derivatives``; nothing if gradients are constants, or for our own backbones, which need none."""
    if constant or _is_ours(learner.backbone):
        return nullcontext()
    return right_second_derivatives(transformed=learner.vectorised)


def _is_ours(backbone: nn.Module) -> bool:
    return type(backbone).__module__.startswith(backbones.__name__)


def _takes_autograd(learner: Learner) -> bool:
    # torch.func works everywhere; autograd itself saves a layer of dispatch and most of batch norm's gradient.
    return not (torch.compiler.is_compiling() or learner.vectorised or torch.is_inference_mode_enabled())
